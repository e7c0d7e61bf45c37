"""Small models with one thing wrong, and what the audit says of them."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest
from torch import nn

from litmus.auditing import AuditReport, audit
from litmus.nn import (
    Attention,
    AttentionConfig,
    FeedforwardConfig,
    LayerContext,
    NormConfig,
    Objective,
    ObjectiveConfig,
)

NUMBERS = itertools.count()
SMALL = {"dim": 32, "heads": 2, "depth": 2, "vocab_size": 61, "context": 80}


@pytest.fixture
def small() -> Callable[..., AuditReport]:
    """Quick audit of `standard` at a small size, changed by the given parts."""

    def run(only: tuple[str, ...] = (), quick: bool = True, limit: float | None = None, **parts: Any) -> AuditReport:
        return audit({"base": "standard", **SMALL, **parts}, quick=quick, only=only, limit=limit)

    return run


@pytest.fixture
def failed(small: Callable[..., AuditReport]) -> Callable[..., set[str]]:
    """The names of the checks that a model fails."""
    return lambda **parts: {finding.name for finding in small(**parts).failed}


def declared(family: type, make: Callable[[Any, LayerContext], nn.Module]) -> dict[str, str]:
    """A new kind whose build is `make`; a mapping for a recipe."""
    name = f"audit_test_{next(NUMBERS)}"

    class Declared(family):  # type: ignore[misc, valid-type]
        kind: Literal[name] = name  # type: ignore[valid-type]

        def build(self, layer_context: LayerContext) -> nn.Module:
            return make(self, layer_context)

    return {"kind": name}


@pytest.fixture
def mixer() -> Callable[[type[Attention]], Mapping[str, str]]:
    """Declare a changed attention."""
    return lambda changed: declared(AttentionConfig, changed)


@pytest.fixture
def feedforward() -> Callable[[Callable[[Any, LayerContext], nn.Module]], Mapping[str, str]]:
    return lambda make: declared(FeedforwardConfig, make)


@pytest.fixture
def objective() -> Callable[[type[Objective]], Mapping[str, str]]:
    return lambda changed: declared(ObjectiveConfig, lambda config, layer_context: changed())


@pytest.fixture
def norm() -> Callable[[type[nn.Module]], Mapping[str, str]]:
    return lambda changed: declared(NormConfig, lambda config, layer_context: changed(layer_context.dim))
