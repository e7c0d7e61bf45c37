"""Regenerates the command outputs in README.md and docs/probes.md.

    python bench/readme.py                 # all of them: about twenty minutes
    python bench/readme.py "litmus audit"  # those of commands that begin with this; several may be given

A block after `<!-- output of: COMMAND -->` is replaced by the output of COMMAND in an empty folder with the README's
plug-in; what follows ` < ` is typed into it, with ` / ` between lines. The result of `litmus compare` is stored in
docs/results/compare.json, from which a test prints the same table again. What is between `<!-- claims -->` and
`<!-- end of claims -->` is replaced by the table of the claims' verdicts, from docs/results/claims.

    python bench/readme.py claims          # only that table
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, STORED_RESULT = ROOT / "README.md", ROOT / "docs" / "results" / "compare.json"
PAGES = (README, ROOT / "docs" / "probes.md")
OUTPUT_BLOCK = re.compile(r"(<!-- output of: litmus (.*?) -->\n```text\n)(.*?)(```)", re.DOTALL)


CLAIMS, CLAIMS_BLOCK = (
    ROOT / "docs" / "results" / "claims",
    re.compile(r"(<!-- claims -->\n).*?(\n<!-- end of claims -->)", re.DOTALL),
)


def claims_table() -> str:
    """The table of the claims' verdicts, of the committed records."""
    from litmus.claims.report import load_records, summary_table

    return summary_table(load_records(CLAIMS), "docs/claims.md")


def output(arguments: str, folder: Path) -> str:
    """The stdout of `litmus ARGUMENTS`, by the code of this checkout, in a terminal of 100 columns."""
    arguments, _, typed = arguments.partition(" < ")
    completed = subprocess.run(
        [sys.executable, "-c", "from litmus.cli import main; main()", *shlex.split(arguments)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)},
        input=typed.replace(" / ", "\n"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return "".join(f"{line.rstrip()}\n" for line in completed.stdout.strip("\n").split("\n"))


def main(prefixes: tuple[str, ...]) -> None:
    text = README.read_text(encoding="utf-8")
    README.write_text(CLAIMS_BLOCK.sub(lambda block: block[1] + claims_table() + block[2], text), encoding="utf-8")
    plugin = re.search(r"```python\n(# my_idea\.py\n.*?)```", text, re.DOTALL)
    assert plugin, "README.md shows no my_idea.py"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "my_idea.py").write_text(plugin[1], encoding="utf-8")

        def regenerate(block: re.Match[str]) -> str:
            if not f"litmus {block[2]}".startswith(prefixes):
                return block[0]
            printed = output(block[2], folder)
            if block[2] == "compare":
                [result] = folder.glob("runs/*/comparison.json")
                shutil.copy(result, STORED_RESULT)
            return block[1] + printed + block[4]

        for page in PAGES:
            page.write_text(OUTPUT_BLOCK.sub(regenerate, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or ("litmus ",))
