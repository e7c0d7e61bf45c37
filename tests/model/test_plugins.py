"""Plug-ins: one file outside the package is a whole architecture, from building to loading on another machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from litmus.errors import BadInput
from litmus.model import Decoder, build, load, resolve, save
from litmus.model.recipe import validated
from litmus.nn import reference_path

Small = Callable[..., Decoder]
Write = Callable[..., Path]
TOKENS = torch.arange(12).view(2, 6)


def mixed_by(model: Decoder) -> float:
    """The factor of the plug-in's version that made this model."""
    return float(model.layers[0].mixer.scale)


@torch.no_grad()
def test_a_mixer_of_its_own_kind_is_built_decodes_and_survives_a_save(
    write_plugin: Write, small: Small, rough: Callable[..., Decoder], tmp_path: Path
) -> None:
    model = rough(small(write_plugin()), torch.float32).eval()
    assert (model.recipe.name, model.recipe.mixer.kind) == ("mean", "mean_so_far")
    logits = model(TOKENS)
    with reference_path():
        assert_close(model(TOKENS), logits)
    cache = model.new_cache(2, 6)
    assert_close(torch.cat([model(part, cache) for part in TOKENS.split(2, 1)], 1), logits)
    assert cache.bytes() == 2 * 4 * model.kv_elements(6)
    save(model, tmp_path / "model")
    assert torch.equal(load(tmp_path / "model").eval()(TOKENS), logits)


def test_a_plugin_takes_sizes_and_overrides_and_serves_as_a_base(write_plugin: Write, tmp_path: Path) -> None:
    path = write_plugin()
    recipe = resolve(path, size="tiny", overrides={"mixer.scale": 2.0})
    assert (recipe.dim, recipe.mixer.scale) == (128, 2.0)
    (tmp_path / "thrice.yaml").write_text("base: mean.py\nmixer: {scale: 3}\n")
    thrice = resolve(tmp_path / "thrice.yaml")
    assert (thrice.name, thrice.mixer.scale) == ("thrice", 3.0)
    assert thrice.plugin == recipe.plugin
    with pytest.raises(BadInput, match=r"unknown key 'scal'; did you mean 'scale'\?"):
        resolve(path, overrides={"mixer.scal": 1})


def test_the_recipe_records_which_file_it_came_from(write_plugin: Write) -> None:
    path = write_plugin()
    before = resolve(path).plugin
    assert before is not None and before.path == str(path.resolve())
    write_plugin(factor=2)
    assert resolve(path).plugin.sha256 != before.sha256


def test_an_edited_plugin_is_run_anew_and_one_restored_runs_as_before(write_plugin: Write, small: Small) -> None:
    found = [mixed_by(small(write_plugin(factor))) for factor in (1.0, 2.0, 1.0)]
    assert found == [1.0, 2.0, 1.0]


def test_a_model_whose_plugin_was_edited_since_runs_the_copy_in_its_folder(
    write_plugin: Write, small: Small, tmp_path: Path
) -> None:
    model = small(write_plugin(factor=1.0)).eval()
    save(model, tmp_path / "model")
    assert mixed_by(small(write_plugin(factor=2.0))) == 2.0
    again = load(tmp_path / "model").eval()
    assert mixed_by(again) == 1.0
    assert torch.equal(again(TOKENS), model(TOKENS))


def test_a_model_whose_plugin_is_gone_runs_the_copy_and_is_saved_with_it(
    write_plugin: Write, small: Small, tmp_path: Path
) -> None:
    path = write_plugin()
    save(small(path), tmp_path / "model")
    path.unlink()
    save(load(tmp_path / "model"), tmp_path / "again")
    assert (tmp_path / "again/plugin.py").read_text() == (tmp_path / "model/plugin.py").read_text()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_model_whose_plugin_is_nowhere_as_it_was_is_refused_and_no_option_is_recommended(
    trusted: bool, write_plugin: Write, small: Small, tmp_path: Path
) -> None:
    save(small(write_plugin(factor=1.0)), tmp_path / "model")
    write_plugin(factor=2.0)
    copy = tmp_path / "model/plugin.py"
    copy.write_text(copy.read_text().replace("* 1.0", "* 3.0"))
    with pytest.raises(
        BadInput, match=r"mean.py \(sha256 .*\), which is missing or has changed since.*restore"
    ) as error:
        load(tmp_path / "model", trust_plugin=trusted)
    assert "trust" not in str(error.value)


def test_what_is_saved_is_the_code_that_ran_even_if_the_file_was_edited_since(
    write_plugin: Write, small: Small, tmp_path: Path
) -> None:
    path = write_plugin(factor=1.0)
    code = path.read_bytes()
    model = small(path)
    write_plugin(factor=2.0)
    save(model, tmp_path / "model")
    assert (tmp_path / "model/plugin.py").read_bytes() == code


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import math\n\nx = 1 / 0\n", r"mine.py does not run: ZeroDivisionError: division by zero \(line 3\)"),
        ("def f():\n    return nothing\n\nf()\n", r"mine.py does not run: NameError: .*nothing.* \(line 2\)"),
        ("import not_a_package\n", r"mine.py does not run: ModuleNotFoundError: .*not_a_package.*\(line 1\)"),
        ("x = (1\n\n", r"mine.py does not run: SyntaxError: .*mine.py, line 1\)"),
        ("raise SystemExit(3)\n", r"mine.py does not run: SystemExit: 3 \(line 1\)"),
        ("x = 1\n", r"mine.py defines no recipe; end it with e.g. recipe = \{'base': 'standard', 'mixer'"),
        ("recipe = 'standard'\n", r"mine.py defines no recipe"),
        ("recipe = {'base': 'standrd'}\n", r"unknown recipe 'standrd'; did you mean 'standard'\?"),
        ("recipe = {'base': 'standard', 'mixer': {'kind': 'mean'}}\n", r"recipe 'mine': unknown mixer kind 'mean'"),
    ],
)
def test_a_plugin_that_does_not_work_is_named_with_the_line(
    code: str, sentence: str, relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(BadInput, match=sentence) as error:
        build("mine.py" if relative else tmp_path / "mine.py")
    assert "\n" not in str(error.value)


def test_a_plugin_that_failed_may_be_mended_and_run_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("recipe = {'base': 'standard', 'dim': 1 / 0}\n")
    for _ in range(2):
        with pytest.raises(BadInput, match="ZeroDivisionError"):
            resolve(path)
    path.write_text("recipe = {'base': 'standard', 'dim': 64}\n")
    assert resolve(path).dim == 64


def test_a_plugin_that_is_not_there_is_named() -> None:
    with pytest.raises(BadInput, match=r"there is no plug-in file 'nowhere/mine.py'"):
        resolve("nowhere/mine.py")


def test_a_plugin_cannot_take_over_a_built_in_kind(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from typing import Literal\n"
        "from litmus.nn import MixerConfig\n"
        "class Mine(MixerConfig):\n"
        "    kind: Literal['attention'] = 'attention'\n"
    )
    with pytest.raises(BadInput, match=r"mixer kind 'attention' is declared twice, in .*multihead.py and .*mine.py"):
        resolve(tmp_path / "mine.py")


SCALED = """
from litmus.nn import Attention

class Scaled(Attention):
    scale = FACTOR

    def __init__(self, config, layer, times: int = 1):
        super().__init__(config, layer)
        self.scale = self.scale * times

    def forward(self, x, ctx):
        return self.scale * super().forward(x, ctx)

recipe = {"base": "standard", "layers": [{"repeat": 1}, {"repeat": "rest", "mixer": Scaled}], "mixer": Scaled}
"""
"""A plug-in whose class is the mixer of all layers, and of a group of layers."""


@pytest.fixture
def two_files(tmp_path: Path) -> list[Path]:
    """idea.py and idea2.py, which define a class of one name that scales by 1 and by 2."""
    files = [tmp_path / "idea.py", tmp_path / "idea2.py"]
    for factor, file in enumerate(files, 1):
        file.write_text(SCALED.replace("FACTOR", f"{factor}.0"))
    return files


def scales(model: Decoder) -> list[float]:
    return [float(layer.mixer.scale) for layer in model.layers]


def test_each_recipe_uses_the_class_of_its_own_file(two_files: list[Path], small: Small) -> None:
    recipes = [resolve(file) for file in two_files]
    assert [recipe.mixer.kind for recipe in recipes] == ["scaled", "scaled"]
    for factor, recipe in enumerate(recipes, 1):
        assert scales(small(recipe)) == [factor] * 3
        assert scales(small(recipe, overrides={"mixer.times": 3})) == [3 * factor] * 3
        assert scales(build(dict(recipe.to_dict()))) == [factor] * recipe.depth
        assert validated(recipe.to_dict()) == recipe


@pytest.mark.slow
def test_saved_models_load_with_the_class_of_their_own_file(
    two_files: list[Path], small: Small, tmp_path: Path
) -> None:
    """In this process and in one that has run neither file, though one was edited since."""
    for file in two_files:
        save(small(file), tmp_path / f"saved-{file.stem}")
    two_files[0].write_text(SCALED.replace("FACTOR", "5.0"))
    assert scales(small(two_files[0])) == [5.0] * 3
    names, expected = [str(tmp_path / "saved-idea2"), str(tmp_path / "saved-idea")], [2.0, 1.0]
    assert [scales(load(name))[2] for name in names] == expected
    code = "import sys, litmus\nfor name in sys.argv[1:]: print(litmus.load(name).layers[2].mixer.scale)"
    shown = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert [float(line) for line in shown.stdout.split()] == expected


def test_a_recipe_keeps_the_class_of_the_version_it_was_made_with(two_files: list[Path], small: Small) -> None:
    before = resolve(two_files[0])
    two_files[0].write_text(SCALED.replace("FACTOR", "5.0"))
    assert scales(small(two_files[0])) == [5.0] * 3
    assert scales(small(before)) == [1.0] * 3


def test_two_files_may_declare_one_kind_which_no_other_recipe_knows(write_plugin: Write, tmp_path: Path) -> None:
    path = write_plugin()
    (tmp_path / "other.py").write_text(path.read_text().replace("* 1.0", "* 2.0"))
    first, second = resolve(path), resolve(tmp_path / "other.py")
    assert [mixed_by(build(recipe, size="tiny", vocab_size=5)) for recipe in (first, second)] == [1.0, 2.0]
    with pytest.raises(BadInput, match=r"unknown mixer kind 'mean_so_far'"):
        resolve({"base": "standard", "mixer": {"kind": "mean_so_far"}})


def test_one_file_may_not_declare_a_kind_twice(two_files: list[Path]) -> None:
    made = "def make(factor):\n    class Made(Scaled):\n        scale = factor\n    return Made\n"
    groups = '{"base": "standard", "mixer": make(1.0), "layers": [{"repeat": 1, "mixer": make(2.0)}, {}]}'
    two_files[0].write_text(SCALED.replace("FACTOR", "1.0") + f"{made}\nrecipe = {groups}\n")
    with pytest.raises(BadInput, match=r"idea.py declares mixer kind 'made' twice; give each class a name of its own"):
        resolve(two_files[0])


def test_a_plugin_that_changes_another_is_saved_with_the_file_that_declares_the_kinds(
    two_files: list[Path], small: Small, tmp_path: Path
) -> None:
    diff = tmp_path / "diff.py"
    diff.write_text("recipe = {'base': 'idea2.py', 'mixer': {'times': 3}}\n")
    model = small(diff)
    assert (model.recipe.name, Path(model.recipe.plugin.path).name) == ("diff", "idea2.py")
    save(model, tmp_path / "saved")
    assert scales(load(tmp_path / "saved")) == scales(model) == [6.0] * 3
    diff.write_text(SCALED.replace("FACTOR", "1.0").replace('"standard"', '"idea2.py"'))
    with pytest.raises(BadInput, match=r"diff.py defines parts and is based on .*idea2.py, which does so, too"):
        resolve(diff)
