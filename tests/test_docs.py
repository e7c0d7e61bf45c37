"""README and docs say what is true: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

import litmus
from litmus.cli.app import app
from litmus.comparison.report.table import print_table
from litmus.comparison.results import ComparisonResult
from litmus.probes import PROBES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "specimens/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
README = PAGES[0].read_text(encoding="utf-8")
PYTHON = re.compile(r"^```python\n(.*?)^```|^<!-- python\n(.*?)^-->", re.DOTALL | re.MULTILINE)
"""A block that is shown, or a comment that readers of the page do not see: what its blocks need to run."""
FILE = re.compile(r"# (\w+\.py)\n")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[str]:
    return [shown or hidden for shown, hidden in PYTHON.findall(page.read_text(encoding="utf-8"))]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a text in it, where a reader of the docs could sit."""
    draw = random.Random(0)
    words = ("the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "after", "one", "small", "bird")
    lines = (" ".join(draw.choices(words, k=draw.randint(4, 9))) + ".\n" for _ in range(1000))
    (tmp_path / "notes.txt").write_text("".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page)], ids=named)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, desk):
    """A block that begins with `# name.py` is saved under that name; a plug-in is then built, a program run."""
    run(page, desk)


def run(page: Path, desk: Path) -> dict[str, Any]:
    """Run the Python of a page in the folder `desk`; the names that its program is left with."""
    names: dict[str, Any] = {}
    for block in blocks(page):
        saved = FILE.match(block)
        if saved:
            (desk / saved[1]).write_text(block, encoding="utf-8")
        if saved and re.search(r"^recipe = ", block, re.MULTILINE):
            litmus.build(saved[1], size="tiny", vocab_size=16)
        else:
            exec(compile(block, f"{named(page)}: {block.splitlines()[0]}", "exec"), {} if saved else names)
    return names


def commands(page: Path) -> list[str]:
    """Every `litmus ...` in the page's code: in fenced blocks, in indented ones, and in cells of tables."""
    text = page.read_text(encoding="utf-8")
    fenced = "\n".join(re.findall(r"^```(?:sh|text)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    lines = [*fenced.splitlines(), *(line[4:] for line in text.splitlines() if line.startswith("    "))]
    found = (re.search(r"(?:^|^\$ |[|/] ?|&& )litmus ((?:[a-z-]).*)", line) for line in lines)
    return [match[1] for match in found if match] + re.findall(r"\| `litmus ([a-z][^`\n]*)` \|", text)


@pytest.mark.parametrize(
    ("page", "line"), [(named(page), line) for page in PAGES for line in commands(page)], ids=lambda value: str(value)
)
def test_a_command_of_the_docs_is_one_that_the_program_takes(page, line):
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;>&")
    lexer.whitespace_split = True
    words = list(lexer)
    words = words[: next((number for number, word in enumerate(words) if set(word) <= set("|;>&")), None)]
    command = typer.main.get_command(app)
    context = command.make_context("litmus", [*words[:1], "--help"], resilient_parsing=True)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"{page}: no command {words[:1]}"
        command = command.commands[words.pop(0)]
    command.make_context("litmus", words, parent=context)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_files_that_docs_and_code_name_are_there():
    for path in [*PAGES, *(ROOT / "litmus").rglob("*.py"), *(ROOT / "bench").glob("*.py")]:
        for name in re.findall(
            r"\b((?:bench|docs|litmus|specimens|tests)/[\w/]+\.\w+)", path.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} names {name}"


def shown(command: str) -> str:
    """The block of the README that shows what a command prints."""
    match = re.search(rf"<!-- output of: {re.escape(command)} -->\n```text\n(.*?)```", README, re.DOTALL)
    assert match, f"README.md shows no output of: {command}"
    return match[1]


def test_the_comparison_in_the_readme_is_what_the_program_prints_of_its_result(tmp_path):
    result = ComparisonResult.load(ROOT / "docs" / "results" / "compare.json")
    with (tmp_path / "printed").open("w+", encoding="utf-8") as file:
        print_table(result, file)
        file.write(f"\nreport: runs/{result.name}/report.html\n")
        file.seek(0)
        printed = [line.rstrip() for line in file]
    assert shown("litmus compare").splitlines() == printed


def words(text: str) -> list[str]:
    """The words of a table's cells without its figures, which differ between machines in their last digits."""
    return sorted(word for word in re.sub(r"\S*\d\S*|[()]|limit", " ", text).split())


def test_the_python_of_the_readme_runs_and_its_audit_prints_what_is_shown(desk):
    names = run(PAGES[0], desk)
    console = Console(width=100, record=True, file=(desk / "printed").open("w"))
    console.print(names["report"].table())
    assert words(shown("litmus audit my_idea.py --quick")) == words(console.export_text())


def test_the_table_of_probes_names_every_probe_with_its_defaults():
    text = (ROOT / "docs/probes.md").read_text(encoding="utf-8")
    for name, kind in PROBES.items():
        options = kind().model_dump()
        length, vocab = options.pop("length"), options.pop("vocab")
        shown = ", ".join(f"{key}={value}" for key, value in options.items())
        assert f"| `{name}` | {kind.about} | {length} | {vocab} | {shown + ' ' if shown else ''}|" in text
