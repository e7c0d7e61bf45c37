"""A name becomes a file only if it can be one anywhere, and no sentence hands on what a terminal would obey."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from litmus.cli import main
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.errors import BadInput, Failed, printable, shown
from litmus.interop import export_model
from litmus.model import build, resolve
from litmus.names import MAX_NAME_CHARACTERS, check_name, folder_safe

BAD = (
    "",
    " ",
    "../../x",
    "/abs",
    "a/b",
    "a\\b",
    "a\nb",
    "\x1b[31mred",
    "x" * 300,
    "\u00e4" * 101,
    ".hidden",
    "..",
    "-rf",
    " x",
)
GOOD = ("x", "ssmax-nope", "my idea (2)", "\u00fc\u4e2d", "a.b", "x" * MAX_NAME_CHARACTERS)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """call("train", ...) -> the one sentence of a refused command, which left nothing behind."""
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        *progress, sentence = err.removesuffix("\n").split("\n")
        assert sentence.startswith("litmus: ") and all(line.isprintable() for line in (sentence, *progress)), err
        assert sorted(tmp_path.rglob("*")) == before
        return sentence

    return typed


@pytest.mark.parametrize("name", BAD)
def test_no_command_takes_a_name_that_cannot_be_a_file(name: str, call: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"base: standard\nname: {json.dumps(name)}\n")
    model = build("standard", vocab_size=257, overrides={"dim": 8, "depth": 1, "heads": 2, "context": 16})
    export_model(model, ByteTokenizer(), tmp_path / "published")
    for words, what in (
        (("train", "standard", f"--name={name}"), "a run's name is "),
        (("compare", "standard", "nope", f"--name={name}"), "a comparison's name is "),
        (("import", "published", f"--name={name}"), "a run's name is "),
        (("train", "mine.yaml"), "a recipe's name is "),
        (("recipes", "mine.yaml"), "a recipe's name is "),
        (("compare", "standard", "mine.yaml"), "a recipe's name is "),
    ):
        said = call(*words)
        assert what in said and "printable characters without / and \\ are valid" in said, (words, said)
    with pytest.raises(BadInput, match="a recipe's name is"):
        resolve("standard", overrides={"name": name})


@pytest.mark.parametrize("name", GOOD)
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert check_name(name, "a name") == folder_safe(name) == name
    assert resolve("standard", overrides={"name": name}).name == name


def test_the_folders_of_any_two_names_differ_and_lead_nowhere_else() -> None:
    folders = [folder_safe(name) for name in BAD]
    assert len(set(folders)) == len(BAD)
    for folder in folders:
        assert check_name(folder, "a folder") == folder


@pytest.mark.parametrize("hostile", ["a\nb", "\x1b[2J", "\r", "\x00", "\u202e", "\x9b31m", "\udcff"])
def test_no_sentence_holds_a_character_that_a_terminal_obeys(
    hostile: str, call: Callable[..., str], tmp_path: Path
) -> None:
    assert all(str(kind(f"the file {hostile} is bad")).isprintable() for kind in (BadInput, Failed))
    assert printable(hostile) != hostile and hostile not in shown(hostile) + shown(hostile, quoted=False)
    call("train", f"recipe{hostile}")
    call("eval", f"run{hostile}")
    if "\x00" not in hostile:
        call("generate", "no-such-run", "--file", f"prompts{hostile}.txt")
        (tmp_path / f"r{hostile}.yaml").write_text("base: [\n")
        call("recipes", f"r{hostile}.yaml")
