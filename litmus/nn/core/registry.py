"""How a part of an architecture (mixer, feedforward, norm, positions, block) is declared, found and built.

A part is a pydantic class whose `kind` names it in recipes, with a `build` that makes its torch module.
Declaring the class registers it, wherever it is declared: built-in parts and users' plug-ins take the same way.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pydantic import ConfigDict, ValidationError
from torch import nn

from litmus.bounds import Bounded
from litmus.errors import BadInput, first_fault, nearest
from litmus.nn.core.layer_context import LayerContext


class Part(Bounded):
    """Base of part declarations; a subclass sets `kind: Literal["its_name"] = "its_name"` and implements `build`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str

    family: ClassVar[str]
    kinds: ClassVar[dict[str, type[Part]]]
    size_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that belong to one model size; applying a row of the size table resets them to their defaults."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Part in cls.__bases__:
            cls.kinds = {}
        else:
            cls.register()

    @classmethod
    def register(cls) -> None:
        """Register this class under its kind: when it is defined, and when an older version of a plug-in returns."""
        kind = cls.model_fields["kind"].default
        if not isinstance(kind, str):
            if "build" in vars(cls):
                raise BadInput(f"{cls.__name__} names no kind; add e.g. kind: Literal['mine'] = 'mine' to it")
            return  # a base that several kinds share, not a kind
        known = cls.kinds.get(kind)
        if known is not None and _source(known) != _source(cls):
            raise BadInput(f"{cls.family} kind {kind!r} is declared twice, in {_source(known)} and {_source(cls)}")
        cls.kinds[kind] = cls

    def build(self, layer: LayerContext) -> nn.Module:
        """Make the module for this declaration at `layer`; raise BadInput when the sizes do not fit."""
        raise BadInput(f"{self.family} kind {self.kind!r} declares no build(layer)")

    @classmethod
    def adapt(cls, module: nn.Module, layer: LayerContext) -> nn.Module:
        """A plug-in's module, whose class stands in a recipe, in the form of this family."""
        return module


@runtime_checkable
class Adapts(Protocol):
    """A module that also changes by another rule than the gradient, once per training step."""

    def post_optimizer_step(self) -> None:
        """Adapt by what the forward passes since the last call showed."""


def not_implemented(owner: object, method: str) -> BadInput:
    """The error for a method that a part's contract asks for and its class leaves out."""
    return BadInput(f"{type(owner).__name__} has no {method}; docs/plugins.md says what it must do")


@runtime_checkable
class PartlyActive(Protocol):
    """A module some of whose parameters one token does not use, such as the experts that it does not choose."""

    def inactive_parameters(self) -> int:
        """How many parameters one token does not use."""


def takes_context(module: nn.Module) -> bool:
    """Whether `forward` takes a second argument, the context."""
    parameters = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional for p in parameters) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


P = TypeVar("P", bound=Part)


def parse_config(family: type[P], raw: Any) -> P:
    """Validate a raw mapping with the class its `kind` names; unknown kinds get the nearest valid one."""
    if isinstance(raw, family):
        return raw
    if not isinstance(raw, dict):
        raise BadInput(
            f"{family.family} must be a mapping with a kind, found {raw!r}; e.g. {family.family}: {{kind: ...}}"
        )
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in family.kinds:
        raise BadInput(f"unknown {family.family} kind {kind!r}; {nearest(str(kind), family.kinds)}")
    try:
        return family.kinds[kind].model_validate(raw)  # type: ignore[return-value]
    except ValidationError as error:
        raise BadInput(f"{family.family} {kind!r}: {first_fault(error, family.kinds[kind])}") from None


def _source(declared: type) -> str:
    try:
        return inspect.getfile(declared)
    except (OSError, TypeError):
        return declared.__module__
