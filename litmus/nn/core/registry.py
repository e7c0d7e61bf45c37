"""The registry of parts (mixers, feedforwards, norms, positions, blocks, ...): their configs by family and kind.

A config is a pydantic class whose `kind` names it in recipes, with a `build` that returns the torch module. Defining
the class registers it, in the package as in a user's plug-in file. A kind of a plug-in file is known only to the
recipes made with that version of that file, so that two files may declare kinds of one name.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pydantic import ConfigDict, ValidationError
from torch import nn

from litmus.bounds import Bounded
from litmus.catalog import RENAMED
from litmus.errors import BadInput, first_fault, nearest
from litmus.nn.core.layer_context import LayerContext

PLUGIN_PREFIX = "litmus_plugin_"
"""Prefix of the names of modules that are plug-in files."""

_PLUGIN_KINDS: dict[str, dict[tuple[str, str], type[Part]]] = {}
"""The kinds that each plug-in module declares, by family and kind."""

_plugin: ContextVar[str] = ContextVar("plugin", default="")
"""The plug-in module whose kinds are known now."""


class Part(Bounded):
    """Base of configs; a subclass sets `kind: Literal["its_name"] = "its_name"` and implements `build`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str

    family: ClassVar[str]
    kinds: ClassVar[dict[str, type[Part]]]
    size_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that depend on the model size; choosing another size resets them to their defaults."""
    build_arguments: ClassVar[tuple[str, ...]] = ()
    """Names of what `build` of this family takes after `layer`; `__init__` of a plug-in's class can have them."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Part in cls.__bases__:
            cls.kinds = {}
        else:
            cls.register()

    @classmethod
    def register(cls) -> None:
        """Register this class under its kind: when it is defined, and when it is used again."""
        kind = cls.model_fields["kind"].default
        if not isinstance(kind, str):
            if "build" in vars(cls):
                raise BadInput(f"{cls.__name__} names no kind; add e.g. kind: Literal['mine'] = 'mine' to it")
            return  # a base class of several kinds
        known = cls.kinds.get(kind)
        if known is not None and _source(known) != _source(cls):
            raise BadInput(f"{cls.family} kind {kind!r} is declared twice, in {_source(known)} and {_source(cls)}")
        if not cls.__module__.startswith(PLUGIN_PREFIX):
            cls.kinds[kind] = cls
        elif _PLUGIN_KINDS.setdefault(cls.__module__, {}).setdefault((cls.family, kind), cls) is not cls:
            raise BadInput(
                f"{_source(cls)} declares {cls.family} kind {kind!r} twice; give each class a name of its own"
            )

    def build(self, layer: LayerContext) -> nn.Module:
        """Build the module of this config for `layer`; raise BadInput if the sizes do not fit."""
        raise BadInput(f"{self.family} kind {self.kind!r} declares no build(layer)")

    @classmethod
    def adapt(cls, module: nn.Module, layer: LayerContext) -> nn.Module:
        """The module of a class named in a recipe, wrapped where its `forward` is not that of this family."""
        return module


@runtime_checkable
class Adapts(Protocol):
    """A module with state that is updated once per training step by another rule than the gradient."""

    def post_optimizer_step(self) -> None:
        """Update the state from the forward passes since the last call."""


def not_implemented(owner: object, method: str) -> BadInput:
    """The error for a required method that a class does not implement."""
    return BadInput(f"{type(owner).__name__} has no {method}; docs/plugins.md says what it must do")


@runtime_checkable
class PartlyActive(Protocol):
    """A module of which one token uses some parameters only, such as a mixture of experts."""

    def inactive_parameters(self) -> int:
        """Number of parameters that one token does not use."""


def takes_context(module: nn.Module) -> bool:
    """Whether `forward` takes the context: a second argument without a default, or one named `ctx`."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    return len(required) > 1 or any(p.name == "ctx" or p.kind is p.VAR_POSITIONAL for p in parameters)


@contextlib.contextmanager
def plugin_kinds(module: str) -> Iterator[None]:
    """In this block the kinds of the plug-in module of this name are known, and those of no other plug-in."""
    token = _plugin.set(module)
    try:
        yield
    finally:
        _plugin.reset(token)


def known_kinds(family: type[Part]) -> dict[str, type[Part]]:
    """The configs of a family by kind: the built-in ones, and those of the plug-in of the block `plugin_kinds`."""
    own = _PLUGIN_KINDS.get(_plugin.get(), {})
    return {**family.kinds, **{kind: declared for (name, kind), declared in own.items() if name == family.family}}


def declares_kinds(module: str) -> bool:
    """Whether the plug-in module of this name declares any kind."""
    return bool(_PLUGIN_KINDS.get(module))


def forget_kinds(module: str) -> None:
    """Forget the kinds of the plug-in module of this name, which is to be run again."""
    _PLUGIN_KINDS.pop(module, None)


P = TypeVar("P", bound=Part)


def parse_config(family: type[P], raw: Any) -> P:
    """Validate a mapping with the config class of its `kind`; the error of an unknown kind names the nearest one."""
    if isinstance(raw, family):
        return raw
    if not isinstance(raw, dict):
        raise BadInput(
            f"{family.family} must be a mapping with a kind, found {raw!r}; e.g. {family.family}: {{kind: ...}}"
        )
    raw, known = with_current_kind(family, raw), known_kinds(family)
    kind = raw.get("kind")
    if not isinstance(kind, str) or kind not in known:
        raise BadInput(f"unknown {family.family} kind {kind!r}; {nearest(str(kind), known)}")
    try:
        return known[kind].model_validate(raw)  # type: ignore[return-value]
    except ValidationError as error:
        raise BadInput(f"{family.family} {kind!r}: {first_fault(error, known[kind])}") from None


def with_current_kind(family: type[Part], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with a renamed kind of version 0.1.0 under its name now, unless a plug-in declares the old one."""
    kind = raw.get("kind")
    renamed = isinstance(kind, str) and kind in RENAMED and kind not in known_kinds(family)
    return {**raw, "kind": RENAMED[kind]} if renamed else dict(raw)  # type: ignore[index]


def _source(declared: type) -> str:
    try:
        return inspect.getfile(declared)
    except (OSError, TypeError):
        return declared.__module__
