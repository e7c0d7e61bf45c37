"""Regenerates the command outputs in README.md.

    python bench/readme.py                 # all of them: about ten minutes
    python bench/readme.py "litmus audit"  # those of commands that begin with this

A block after `<!-- output of: COMMAND -->` is replaced by the output of COMMAND in an empty folder with the README's
plug-in. Before a chat, its model is trained by the commands of docs/generation.md; the chat reads the lines of its
block that begin with "> ". The result of `litmus compare` is stored in docs/results/compare.json, from which a test
prints the same table again.
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
README, STORED_RESULT = ROOT / "README.md", ROOT / "docs" / "results" / "compare.json"
OUTPUT_BLOCK = re.compile(r"(<!-- output of: (.*?) -->\n```text\n)(.*?)(```)", re.DOTALL)


class Workspace:
    """A folder to run commands in, with `litmus` and `python` of this checkout on the PATH."""

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

    def output(self, command: str, inputs: list[str]) -> str:
        """The stdout of a command, with each input after its prompt."""
        if command.startswith("litmus chat"):
            self._train_chat_model()
        stdout = self._run(command, "".join(f"{line}\n" for line in inputs))
        if not inputs:
            return stdout
        first, *answers = stdout.split("> ")
        lines = (f"> {line}\n{answer}" for line, answer in zip(inputs, answers, strict=True))
        return f"$ {command}\n{first}{''.join(lines)}"

    def _train_chat_model(self) -> None:
        page = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
        program = re.search(r"```python\n(# talk\.py\n.*?)```\n(.*?)    litmus chat", page, re.DOTALL)
        assert program, "docs/generation.md shows no talk.py"
        (self.folder / "talk.py").write_text(program[1], encoding="utf-8")
        for line in program[2].split("\n"):
            self._run(line.strip(), "")

    def _run(self, command: str, stdin: str) -> str:
        completed = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, input=stdin, stdout=subprocess.PIPE, text=True,
            check=True,
        )  # fmt: skip
        return completed.stdout


def main(prefix: str) -> None:
    text = README.read_text(encoding="utf-8")
    plugin = re.search(r"```python\n(# my_idea\.py\n.*?)```", text, re.DOTALL)
    assert plugin, "README.md shows no my_idea.py"
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        (workspace.folder / "my_idea.py").write_text(plugin[1], encoding="utf-8")

        def regenerate(block: re.Match[str]) -> str:
            if not block[2].startswith(prefix):
                return block[0]
            output = workspace.output(block[2], re.findall(r"^> (.*)$", block[3], re.MULTILINE))
            return block[1] + "\n".join(line.rstrip() for line in output.strip("\n").split("\n")) + "\n" + block[4]

        README.write_text(OUTPUT_BLOCK.sub(regenerate, text), encoding="utf-8")
        for result in workspace.folder.glob("runs/*/comparison.json"):
            shutil.copy(result, STORED_RESULT)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "litmus ")
