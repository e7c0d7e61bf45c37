"""What every test starts from: one thread, fixed seeds, and models whose weights are all away from their start."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
import torch
from torch import nn

from litmus.model import recipes, resolve
from litmus.model.plugins import disable_trial_runs
from litmus.nn import Part, reference_path

M = TypeVar("M", bound=nn.Module)

torch.set_num_threads(1)
hypothesis.settings.register_profile("litmus", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("litmus")


SHRUNK = {"vocab_size": 23, "dim": 16, "depth": 3, "heads": 2, "context": 14, "dropout": 0.0}


SLOW = (
    "auditing",
    "claims/test_running.py",
    "comparison",
    "compression",
    "data/test_data_end_to_end.py",
    "data/test_packages.py",
    "examples",
    "generation",
    "interop",
    "model/test_first_runs.py",
    "model/test_listing.py",
    "model/test_renamed.py",
    "runtime/test_memory.py",
    "specimens",
    "test_contract.py",
    "test_docs.py",
    "test_fuzz.py",
    "test_runs.py",
    "test_wheel.py",
    "training",
)
"""Folders and files of tests that train, audit, decode or start processes; `-m "not slow"` leaves them out."""

QUICK = (
    "auditing/test_report.py",
    "comparison/test_metrics.py",
    "comparison/test_results.py",
    "comparison/test_statistics.py",
    "comparison/test_verdicts.py",
    "generation/test_detokenizer.py",
    "generation/test_packed_linear.py",
    "generation/test_sampling.py",
    "interop/test_interop_refusals.py",
    "training/test_budget.py",
    "training/test_schedule.py",
    "training/test_settings.py",
    "training/test_train_step.py",
    "training/test_training_progress.py",
)
"""Files in the folders of SLOW that take a second or two, so that `-m "not slow"` has tests of every package."""


def is_slow(file: Path) -> bool:
    """Whether all tests of a file are slow: it is in SLOW and not in QUICK."""
    path = file.relative_to(Path(__file__).parent).as_posix()
    return path not in QUICK and any(path == name or path.startswith(f"{name}/") for name in SLOW)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Under `-m "not slow"` slow files are not read, which takes longer than many a test."""
    left_out = config.option.markexpr == "not slow" and collection_path.suffix == ".py" and is_slow(collection_path)
    return True if left_out else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files; others mark themselves."""
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`distinct_recipe` is the name of each built-in recipe, once where several differ in their sizes only."""
    if "distinct_recipe" in metafunc.fixturenames:
        found: dict[str, str] = {}
        for name in recipes():
            plain = resolve(name, size="tiny", overrides=SHRUNK).to_dict()
            found.setdefault(json.dumps([plain[key] for key in plain if key not in ("name", "about")]), name)
        metafunc.parametrize("distinct_recipe", found.values(), scope="session")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def chosen_path(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test with a parameter `fast` runs on the fast paths, or where it is False on the references."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    with reference_path(not parameters.get("fast", True)):
        yield


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests run, and processes that they start, is not written down in the developer's own state folder."""
    os.environ["LITMUS_STATE"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session", autouse=True)
def no_first_runs() -> None:
    """The plug-ins of tests run at once: trying each in a process of its own first would take seconds."""
    disable_trial_runs()


@pytest.fixture
def fresh_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a user who has not run any plug-in."""
    monkeypatch.setenv("LITMUS_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("litmus.model.trust._named", set())
    monkeypatch.setattr("litmus.model.trust._warned", set())
    return tmp_path / "state"


def roughened(module: M, dtype: torch.dtype = torch.float64) -> M:
    """Move every parameter by N(0, 0.2²): a bias left at 0 or a norm left at 1 would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    module.to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return module


@pytest.fixture(scope="session")
def rough() -> Callable[..., nn.Module]:
    return roughened


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """The kinds that are declared in this block, by itself or in a plug-in, are forgotten after it."""
    before = {family: dict(family.kinds) for family in Part.__subclasses__()}
    yield
    for family, kinds in before.items():
        family.kinds.clear()
        family.kinds.update(kinds)


@pytest.fixture(autouse=True)
def kinds_of_a_test() -> Iterator[None]:
    with forgotten():
        yield


@pytest.fixture(autouse=True, scope="module")
def kinds_of_a_module() -> Iterator[None]:
    with forgotten():
        yield
