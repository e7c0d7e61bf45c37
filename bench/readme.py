"""Writes into README.md what the commands print whose output it shows.

    python bench/readme.py                 # all of them: about ten minutes
    python bench/readme.py "litmus audit"  # those that begin so

A block after `<!-- output of: COMMAND -->` is replaced by what COMMAND prints in a fresh folder that holds the
plug-in of the README. The result of `litmus compare` is kept in docs/results/compare.json, from which a test prints the
same table again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, KEPT = ROOT / "README.md", ROOT / "docs" / "results" / "compare.json"
SHOWN = re.compile(r"(<!-- output of: (.*?) -->\n```text\n)(.*?)(```)", re.DOTALL)
PROGRAM = "from litmus.cli import main; main()"


def main(beginning: str) -> None:
    text = README.read_text(encoding="utf-8")
    plugin = re.search(r"```python\n(# my_idea\.py\n.*?)```", text, re.DOTALL)
    assert plugin, "README.md shows no my_idea.py"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "my_idea.py").write_text(plugin[1], encoding="utf-8")

        def printed(match: re.Match[str]) -> str:
            if not match[2].startswith(beginning):
                return match[0]
            words = [sys.executable, "-c", PROGRAM, *match[2].split()[1:]]
            environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
            done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            for result in Path(folder).glob("runs/*/comparison.json"):
                shutil.copy(result, KEPT)
            lines = (line.rstrip() for line in done.stdout.splitlines())
            return match[1] + "\n".join(lines) + "\n" + match[4]

        README.write_text(SHOWN.sub(printed, text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "litmus ")
