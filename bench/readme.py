"""Writes into README.md what the commands print whose output it shows.

    python bench/readme.py                 # all of them: about ten minutes
    python bench/readme.py "litmus audit"  # those that begin so

A block after `<!-- output of: COMMAND -->` is replaced by what COMMAND prints in a fresh folder that holds the plug-in
of the README. Before a chat, the commands of docs/generation.md that train its model are run; what is typed into it are
the lines of the block that begin with "> ". The result of `litmus compare` is kept in docs/results/compare.json, from
which a test prints the same table again.
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


class Desk:
    """A folder to run commands in, with `litmus` and `python` of this checkout on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = folder / "tools"
        tools.mkdir()
        (tools / "litmus").write_text(
            f'#!/bin/sh\nexec {sys.executable} -c "from litmus.cli import main; main()" "$@"\n'
        )
        (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for tool in tools.iterdir():
            tool.chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}

    def printed(self, command: str, typed: list[str]) -> str:
        """What a command prints on stdout; after each prompt, what was typed there."""
        if command.startswith("litmus chat"):
            self._train_what_talks()
        said = self._run(command, "".join(f"{line}\n" for line in typed))
        if not typed:
            return said
        first, *answers = said.split("> ")
        lines = (f"> {line}\n{answer}" for line, answer in zip(typed, answers, strict=True))
        return f"$ {command}\n{first}{''.join(lines)}"

    def _train_what_talks(self) -> None:
        page = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
        program = re.search(r"```python\n(# talk\.py\n.*?)```\n(.*?)    litmus chat", page, re.DOTALL)
        assert program, "docs/generation.md shows no talk.py"
        (self.folder / "talk.py").write_text(program[1], encoding="utf-8")
        for line in program[2].split("\n"):
            self._run(line.strip(), "")

    def _run(self, command: str, typed: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, input=typed, stdout=subprocess.PIPE, text=True,
            check=True,
        )  # fmt: skip
        return done.stdout


def main(beginning: str) -> None:
    text = README.read_text(encoding="utf-8")
    plugin = re.search(r"```python\n(# my_idea\.py\n.*?)```", text, re.DOTALL)
    assert plugin, "README.md shows no my_idea.py"
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        (desk.folder / "my_idea.py").write_text(plugin[1], encoding="utf-8")

        def anew(block: re.Match[str]) -> str:
            if not block[2].startswith(beginning):
                return block[0]
            printed = desk.printed(block[2], re.findall(r"^> (.*)$", block[3], re.MULTILINE))
            return block[1] + "\n".join(line.rstrip() for line in printed.strip("\n").split("\n")) + "\n" + block[4]

        README.write_text(SHOWN.sub(anew, text), encoding="utf-8")
        for result in desk.folder.glob("runs/*/comparison.json"):
            shutil.copy(result, KEPT)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "litmus ")
