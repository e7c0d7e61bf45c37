"""Small models of three families trained for a moment, and a trained run."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from litmus.data import DataSettings
from litmus.model import Decoder, build
from litmus.nn import Batch
from litmus.training import TrainSettings
from litmus.training.trainer import train_run

FAMILIES = {
    "swiglu": {},
    "gelu": {"feedforward": {"kind": "gelu", "bias": True}},
    "moe": {"feedforward": {"kind": "moe", "experts": 3, "top_k": 2, "hidden": 32}},
    "shared": {"feedforward": {"kind": "moe", "experts": 3, "top_k": 2, "hidden": 32, "shared": 1}},
}
SIZES = {"dim": 32, "depth": 2, "heads": 4, "context": 32}
WORDS = ("the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "after", "one", "small", "bird")


def text(lines: int) -> str:
    draw = random.Random(0)
    return "".join(" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) + ".\n" for _ in range(lines))


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Blocks of text (8, 32) in bytes, with targets."""
    tokens = torch.tensor(list(text(60).encode())[: 8 * 32 + 1])
    return Batch(tokens[:-1].view(8, 32), tokens[1:].view(8, 32))


def _untrained(family: str) -> Decoder:
    return build("standard", vocab_size=128, overrides={**SIZES, **FAMILIES[family]})


@cache
def _trained(family: str) -> Decoder:
    torch.manual_seed(0)
    model = _untrained(family)
    tokens = torch.tensor(list(text(400).encode()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        starts = torch.randint(len(tokens) - 33, (8,))
        rows = torch.stack([tokens[start : start + 33] for start in starts])
        loss = model.loss(rows[:, :-1], rows[:, 1:]).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def trained() -> Callable[[str], Decoder]:
    """trained(family) is a model that has learned something; the same one at every call, not to be changed."""
    return _trained


@pytest.fixture(scope="session")
def untrained() -> Callable[[str], Decoder]:
    """untrained(family) is a model with initial weights."""
    return lambda family: _untrained(family).eval()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compression")


@pytest.fixture(autouse=True)
def own_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_CACHE", str(home / "cache"))


@pytest.fixture(scope="session")
def run(home: Path) -> Path:
    """A run of a small model, trained for 20 steps on bytes."""
    (home / "corpus.txt").write_text(text(400), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITMUS_CACHE", str(home / "cache"))
        settings = {"budget": "20 steps", "batch": 4, "context": 32, "lr": 1e-2, "precision": "fp32", "threads": 1}
        train_run(
            {"base": "standard", "name": "toy", **SIZES, "mixer": {"kv_heads": 2}},
            DataSettings(corpus=str(home / "corpus.txt"), tokenizer="bytes"),
            TrainSettings(**settings, validate_tokens=128, evaluate_tokens=256),
            home / "toy",
        )
    return home / "toy"
