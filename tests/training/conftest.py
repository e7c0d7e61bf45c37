"""A small corpus, a tiny recipe with dropout, and a way to train it in a second."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litmus.data import DataSettings, TokenData, prepare
from litmus.training import TrainSettings
from litmus.training.run.result import RunResult
from litmus.training.trainer import train_run

QUICK = {
    "budget": "20 steps",
    "batch": 4,
    "context": 16,
    "precision": "fp32",
    "threads": 1,
    "validate_every": 5,
    "validate_tokens": 128,
    "evaluate_tokens": 256,
}


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(autouse=True)
def own_cache(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_CACHE", str(session_folder / "cache"))


@pytest.fixture(scope="session")
def corpus(session_folder: Path) -> str:
    """Sentences of a few words in random order: text that a tiny model learns something about at once."""
    draw = random.Random(0)
    words = ("the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "after", "one", "small", "bird")
    lines = (" ".join(draw.choices(words, k=draw.randint(4, 9))) + ".\n" for _ in range(400))
    path = session_folder / "corpus.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def data_settings(corpus: str) -> DataSettings:
    return DataSettings(corpus=corpus, tokenizer="bytes")


@pytest.fixture
def data(data_settings: DataSettings) -> TokenData:
    return prepare(data_settings)


@pytest.fixture
def recipe() -> dict[str, Any]:
    return {"base": "standard", "name": "toy", "dim": 16, "depth": 2, "heads": 2, "context": 32, "dropout": 0.1}


@pytest.fixture
def quick(recipe: dict[str, Any], data_settings: DataSettings, tmp_path: Path) -> Callable[..., RunResult]:
    """quick(folder="run", recipe=..., sample=..., display=..., resume=..., **settings) trains in tmp_path / folder."""

    def run(folder: str = "run", **options: Any) -> RunResult:
        own = {key: options.pop(key) for key in ("sample", "display", "resume") if key in options}
        source = {**recipe, **options.pop("recipe", {})}
        settings = TrainSettings(**{**QUICK, **options})
        return train_run(source, data_settings, settings, tmp_path / folder, **own)

    return run


@pytest.fixture
def events(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """events("run") are the lines of that run's metrics.jsonl without what depends on the clock."""

    def read(folder: str = "run", kind: str | None = None) -> list[dict[str, Any]]:
        lines = (tmp_path / folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        parsed = [{key: value for key, value in json.loads(line).items() if key != "timing"} for line in lines]
        return [event for event in parsed if kind in (None, event["kind"])]

    return read
