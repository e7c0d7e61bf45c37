"""Module classes in recipes: a config is generated whose options are the keywords of `__init__`."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from litmus.errors import BadInput
from litmus.nn.core.layer_context import SIZES, LayerContext
from litmus.nn.core.registry import Part

_DECLARED: dict[tuple[type[Part], type], type[Part]] = {}


def with_kinds(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Register the classes in a recipe's mapping and replace each by the name of its kind.

    A class can be the part ({"mixer": MyMixer}) or its kind ({"mixer": {"kind": MyMixer, "width": 3}}).
    """
    families = {family.family: family for family in Part.__subclasses__()}

    def replaced(key: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [replaced(key, item) for item in value]
        if isinstance(value, type):
            if key not in families:
                raise BadInput(
                    f"{key} is the class {value.__name__}; a class is valid for {', '.join(sorted(families))}"
                )
            return {"kind": kind_of(families[key], value)}
        if isinstance(value, nn.Module):
            name = type(value).__name__
            raise BadInput(f"{key} is an object of the class {name}; the class itself is valid: {{{key!r}: {name}}}")
        if isinstance(value, Mapping):
            inner = {name: replaced(name, item) for name, item in value.items() if name != "kind"}
            if "kind" not in value:
                return inner
            kind = value["kind"]
            if isinstance(kind, type) and key in families:
                kind = kind_of(families[key], kind)
            return {"kind": kind, **inner}
        return value

    return {key: replaced(key, value) for key, value in raw.items()}


def kind_of(family: type[Part], cls: type) -> str:
    """Register the class and return the name of its kind: my_mixer for MyMixer."""
    if issubclass(cls, Part):
        return str(cls.model_fields["kind"].default)
    if not issubclass(cls, nn.Module):
        raise BadInput(f"{family.family} is the class {cls.__name__}, which is not a torch.nn.Module")
    if (family, cls) not in _DECLARED:
        _DECLARED[family, cls] = _declaration(family, cls)
    declared = _DECLARED[family, cls]
    declared.register()  # another class of that name may have been registered since
    return str(declared.model_fields["kind"].default)


def _declaration(family: type[Part], cls: type[nn.Module]) -> type[Part]:
    """The config of a class: the options of its base class and the keywords of its `__init__`."""
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
    base, hints = _config_class(cls, family), _hints(cls)
    sizes, annotations, defaults = [], {}, {}
    wanted = set()
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in ("config", "layer"):
            wanted.add(name)
        elif parameter.default is not parameter.empty:
            if name == "kind" or name.startswith("_") or (hasattr(base, name) and name not in base.model_fields):
                raise BadInput(f"{cls.__name__}.__init__ has an option {name!r}, which is no valid name; rename it")
            annotations[name] = hints.get(name, Any if parameter.default is None else type(parameter.default))
            defaults[name] = parameter.default
        elif name in SIZES:
            sizes.append(name)
        elif name in family.build_arguments:
            wanted.add(name)
        else:
            raise BadInput(
                f"{cls.__name__}.__init__ needs {name!r}, which Litmus does not pass; give it a default, to make it an "
                f"option of the recipe, or use one of {', '.join(('layer', 'config', *SIZES, *family.build_arguments))}"
            )

    def build(self: Part, layer: LayerContext, *more: Any) -> nn.Module:
        known = {"config": self, "layer": layer, **dict(zip(family.build_arguments, more, strict=False))}
        given = {name: known[name] for name in wanted}
        given |= {name: getattr(self, name) for name in defaults} | {name: getattr(layer, name) for name in sizes}
        return family.adapt(cls(**given), layer)

    made: type[Part] = type(base)(  # type: ignore[misc]
        f"{cls.__name__}Config",
        (base,),
        {
            "__module__": cls.__module__,
            "__qualname__": f"{cls.__name__}Config",
            "__doc__": cls.__doc__,
            "__annotations__": {**annotations, "kind": Literal[kind]},
            **defaults,
            "kind": kind,
            "build": build,
        },
    )
    return made


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(vars(cls).get("__init__", cls), include_extras=True)
    except (NameError, TypeError):  # a name that is imported under TYPE_CHECKING only
        return {}


def _config_class(cls: type, family: type[Part]) -> type[Part]:
    """The config class in the annotation of `config` in the `__init__` of the class or its first base with one."""
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            found = _hints(parent).get("config")
            if isinstance(found, type) and issubclass(found, family):
                return found
    return family
