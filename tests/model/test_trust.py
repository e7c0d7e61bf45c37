"""Code runs only if this user has named that very code, or says now that it may."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from litmus.errors import BadInput
from litmus.model import Decoder, build, load, recipes, resolve, save
from litmus.model.trust import TRUST_FILE, is_trusted, trust

Small = Callable[..., Decoder]
Write = Callable[..., Path]

FOREIGN = """
from pathlib import Path
Path({evidence!r}).touch()
recipe = {{"base": "standard", "dim": 64}}
"""


@pytest.fixture
def foreign(tmp_path: Path, fresh_state: Path) -> Path:
    """A folder from elsewhere with a saved model, whose recipe names code in the folder; `ran` appears if that runs."""
    folder = tmp_path / "foreign"
    save(build("standard", dim=32, depth=1, heads=2, vocab_size=61), folder)
    code = FOREIGN.format(evidence=str(tmp_path / "ran"))
    (folder / "plugin.py").write_text(code)
    raw = yaml.safe_load((folder / "recipe.yaml").read_text())
    raw["plugin"] = {"path": str(folder / "plugin.py"), "sha256": digest(code.encode())}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    return folder


def digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()


def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr("litmus.model.trust._named", set())


@pytest.mark.parametrize("place", ["inside", "beside", "copy only"])
def test_code_that_a_saved_model_names_does_not_run(place: str, foreign: Path, tmp_path: Path) -> None:
    recipe = foreign / "recipe.yaml"
    if place == "beside":
        shutil.move(foreign / "plugin.py", tmp_path / "idea.py")
        recipe.write_text(recipe.read_text().replace(str(foreign / "plugin.py"), str(tmp_path / "idea.py")))
    elif place == "copy only":
        recipe.write_text(recipe.read_text().replace(str(foreign / "plugin.py"), "/nowhere/idea.py"))
    file = tmp_path / "idea.py" if place == "beside" else foreign / "plugin.py"
    with pytest.raises(BadInput) as error:
        load(foreign)
    assert not (tmp_path / "ran").exists()
    for part in (str(file), digest(file.read_bytes()), "--trust-plugin", "trust_plugin=True"):
        assert part in str(error.value)


def test_it_runs_with_permission_which_does_not_outlast_the_call(foreign: Path, tmp_path: Path) -> None:
    load(foreign, trust_plugin=True)
    assert (tmp_path / "ran").exists()
    with pytest.raises(BadInput, match="whose code you have not run"):
        load(foreign)


def test_it_runs_once_the_user_has_named_a_file_of_that_very_code(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_bytes((foreign / "plugin.py").read_bytes())
    resolve(tmp_path / "mine.py")
    forgotten(monkeypatch)
    load(foreign)
    (foreign / "plugin.py").write_text((foreign / "plugin.py").read_text() + "\n")
    raw = yaml.safe_load((foreign / "recipe.yaml").read_text())
    raw["plugin"]["sha256"] = digest((foreign / "plugin.py").read_bytes())
    (foreign / "recipe.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(BadInput, match="whose code you have not run"):
        load(foreign)


def test_a_saved_recipe_that_is_named_itself_runs_no_code_either(foreign: Path, tmp_path: Path) -> None:
    for call in (resolve, build):
        with pytest.raises(BadInput, match=r"sha256 .* --trust-plugin"):
            call(foreign / "recipe.yaml")
    assert not (tmp_path / "ran").exists()
    assert resolve(foreign / "recipe.yaml", trust_plugin=True).dim == 32


@pytest.mark.parametrize("base", ["idea.py", "./idea.py", "../foreign/idea.py", "{folder}/idea.py"])
def test_a_recipe_file_from_elsewhere_runs_no_code_that_it_is_based_on(
    base: str, tmp_path: Path, fresh_state: Path
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "idea.py").write_text(FOREIGN.format(evidence=str(tmp_path / "ran")))
    (folder / "one.yaml").write_text(f"base: {base.format(folder=folder)}\n")
    (folder / "two.yaml").write_text("base: one.yaml\n")
    for name in ("one", "two"):
        with pytest.raises(BadInput, match=r"one.yaml is based on the code in .*idea.py \(sha256 .*--trust-plugin"):
            resolve(folder / f"{name}.yaml")
    assert not (tmp_path / "ran").exists()
    assert resolve(folder / "two.yaml", trust_plugin=True).dim == 64
    with pytest.raises(BadInput, match="is based on the code"):
        resolve(folder / "two.yaml")
    resolve(folder / "idea.py")
    assert resolve(folder / "two.yaml").dim == 64


def test_known_code_does_not_bring_unknown_code_with_it(tmp_path: Path, fresh_state: Path) -> None:
    mine, foreign = tmp_path / "mine", tmp_path / "foreign"
    for folder in (mine, foreign):
        folder.mkdir()
        (folder / "top.py").write_text("recipe = {'base': 'part.py'}\n")
    (mine / "part.py").write_text("recipe = {'base': 'standard'}\n")
    (foreign / "part.py").write_text(FOREIGN.format(evidence=str(tmp_path / "ran")))
    (foreign / "recipe.yaml").write_text("base: top.py\n")
    assert resolve(mine / "top.py").name == "top"
    with pytest.raises(BadInput, match=r"recipe.yaml is based on the code in .*part.py"):
        resolve(foreign / "recipe.yaml")
    assert not (tmp_path / "ran").exists()


def test_a_python_call_may_name_a_file_as_a_base(write_plugin: Write, fresh_state: Path) -> None:
    assert resolve({"base": str(write_plugin()), "dim": 32}).mixer.kind == "mean_so_far"


def test_what_a_user_names_is_on_the_list_once_with_its_path(
    write_plugin: Write, fresh_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_plugin()
    for _ in range(3):
        resolve(path)
        forgotten(monkeypatch)
    (line,) = (fresh_state / TRUST_FILE).read_text().splitlines()
    sha256, _, file = line.split(" ", 2)
    assert (sha256, json.loads(file)) == (digest(path.read_bytes()), str(path))


@pytest.mark.parametrize("damage", [b"\x00\xff\n", b"a" * 64, b"a" * 64 + b" 2026-01-01 ", b"\n\n", b"a" * 63 + b"\n"])
def test_damaged_lines_count_for_nothing_and_spoil_no_others(
    damage: bytes, fresh_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_state.mkdir()
    (fresh_state / TRUST_FILE).write_bytes(damage)
    for number in ("b", "c"):
        trust(number * 64, Path("/a\nb"))
    forgotten(monkeypatch)
    assert [is_trusted(letter * 64) for letter in "abc"] == [False, True, True]


def _trust_many(first: int) -> None:
    for number in range(first, first + 50):
        trust(f"{number:064x}", Path(f"/{number}"))


def test_two_processes_may_add_to_the_list_at_once(fresh_state: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_trust_many, args=(start,)) for start in (0, 1000, 2000)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert all(is_trusted(f"{start + number:064x}") for start in (0, 1000, 2000) for number in range(50))


@pytest.mark.parametrize("obstacle", ["a file", "a folder in its place", "read-only"])
def test_where_nothing_can_be_kept_one_line_says_so_and_this_process_goes_on(
    obstacle: str, write_plugin: Write, fresh_state: Path, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    if obstacle == "a file":
        fresh_state.write_text("")
    elif obstacle == "a folder in its place":
        (fresh_state / TRUST_FILE).mkdir(parents=True)
    elif os.geteuid() == 0:
        pytest.skip("the root user may write everywhere")
    else:
        fresh_state.mkdir(mode=0o555)
    for _ in range(2):
        save(small(write_plugin()), fresh_state.parent / "model")
    load(fresh_state.parent / "model")
    (line,) = capsys.readouterr().err.splitlines()
    assert str(fresh_state) in line and "--trust-plugin" in line


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [touch ran]", "!!python/name:os.system", "!run x"])
@pytest.mark.parametrize("key", ["about", "plugin", "mixer"])
def test_no_tag_in_a_recipe_runs_anything(
    tag: str, key: str, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (tmp_path / "mine.yaml", foreign / "recipe.yaml"):
        file.write_text(f"base: standard\n{key}: {tag}\n")
        with pytest.raises(BadInput):
            resolve(file)
    with pytest.raises(BadInput):
        load(foreign)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "plugin",
    [
        "mine.py",
        {"path": "mine.py"},
        {"path": 3, "sha256": "0" * 64},
        {"path": "mine.py", "sha256": "../x"},
        {"path": "a\0b", "sha256": "0" * 64},
        {"path": "/", "sha256": "0" * 64, "more": 1},
    ],
)
def test_what_a_saved_recipe_says_of_its_plugin_is_checked(plugin: object, foreign: Path) -> None:
    raw = yaml.safe_load((foreign / "recipe.yaml").read_text())
    raw["plugin"] = plugin
    (foreign / "recipe.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(BadInput, match=r"plug-?in"):
        load(foreign, trust_plugin=True)


def test_built_in_recipes_are_found_whatever_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "standard").write_text("base: evil.py\n")
    assert "standard" in recipes() and resolve("standard").name == "standard"
