"""What a plug-in does while it is trained: each ends as one sentence about it, and its run stays where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litmus.data import DataSettings
from litmus.errors import BadInput, Failed
from litmus.model import build
from litmus.training import TrainSettings
from litmus.training.run.result import RunResult
from litmus.training.trainer import train_run

PLUGIN = """
import os
from typing import Literal
from litmus.nn.layers.feedforwards import FeedforwardConfig, Gelu, GeluConfig

AT_IMPORT

class OddConfig(FeedforwardConfig):
    kind: Literal["odd"] = "odd"

    def build(self, layer):
        AT_BUILD
        return Odd(GeluConfig(hidden=2 * layer.dim), layer)

class Odd(Gelu):
    def forward(self, x, ctx):
        AT_FORWARD
        return super().forward(x, ctx)

class Silent(Exception):
    def __str__(self):
        raise RuntimeError("says nothing")

recipe = {"base": "standard", "dim": 16, "depth": 1, "heads": 2, "context": 32, "feedforward": {"kind": "odd"}}
"""


@pytest.fixture
def trained(tmp_path: Path, data_settings: DataSettings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunResult]:
    """trained(at_import=..., at_build=..., at_forward=...) trains that plug-in in runs/odd of the working folder."""
    monkeypatch.chdir(tmp_path)

    def made(at_import: str = "pass", at_build: str = "pass", at_forward: str = "pass") -> RunResult:
        code = PLUGIN.replace("AT_IMPORT", at_import).replace("AT_BUILD", at_build).replace("AT_FORWARD", at_forward)
        Path("odd.py").write_text(code, encoding="utf-8")
        settings = TrainSettings(budget="3 steps", batch=2, context=16, threads=1, checkpoint_every=1)
        return train_run("odd.py", data_settings, settings, "runs/odd")

    return made


@pytest.mark.parametrize("raised", ["StopIteration", "GeneratorExit", "BaseException", "SystemExit", "Silent"])
def test_whatever_a_plugin_raises_in_training_is_told_of_the_plugin(
    raised: str, trained: Callable[..., RunResult]
) -> None:
    with pytest.raises(Failed, match=rf"odd\.py failed in training odd: {raised} \(line 17\)"):
        trained(at_forward=f"raise {raised}")


def test_a_plugin_that_raises_what_cannot_tell_itself_when_it_is_read_is_named(
    trained: Callable[..., RunResult],
) -> None:
    with pytest.raises(BadInput, match=r"odd\.py does not run: Wordless \(line 7\)"):
        trained(at_import="class Wordless(Exception): __str__ = None\nraise Wordless")


@pytest.mark.parametrize("moment", ["at_import", "at_build", "at_forward"])
def test_a_plugin_that_changes_the_working_folder_moves_nothing_of_its_run(
    moment: str, trained: Callable[..., RunResult], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert trained(**{moment: f"os.chdir({str(elsewhere)!r})"}).steps == 3
    assert not list(elsewhere.iterdir())
    assert Path.cwd() == tmp_path
    assert (tmp_path / "runs/odd/result.json").is_file()


def test_a_model_built_by_code_that_changes_the_working_folder_leaves_it_as_it_was(
    trained: Callable[..., RunResult], tmp_path: Path
) -> None:
    trained(at_build="os.chdir('/')")
    build(tmp_path / "odd.py")
    assert Path.cwd() == tmp_path
