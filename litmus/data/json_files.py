"""JSON files that others wrote: read with bounds, and checked against what a pydantic model declares."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.errors import BadInput

DEEPEST = 100
"""Mappings and lists within each other; published files have fewer than ten."""

M = TypeVar("M", bound="Declared")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


class Declared(BaseModel):
    """What is read of a file: exact types and finite numbers. Other keys may stand there and are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; BadInput for one that cannot be read, is no JSON, no mapping or nested too deep."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text, parse_constant=_no_number)
        if "\\u" in text:  # an escape may name half a character, which no file can hold
            json.dumps(content, ensure_ascii=False).encode()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise BadInput(f"{path} is nested deeper than {DEEPEST} levels, which no model file is") from None
    except UnicodeError:
        raise BadInput(f"{path} is not JSON: it holds bytes or escapes that are no UTF-8") from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {str(error).partition(';')[0]}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} must hold a JSON mapping, found {type(content).__name__}")
    if _deeper_than(content, DEEPEST):
        raise BadInput(f"{path} is nested deeper than {DEEPEST} levels, which no model file is")
    return content


def checked(model: type[M], raw: dict[str, Any], origin: str) -> M:
    """`raw` as `model` declares it; BadInput names the first key that is wrong, its value and what would be valid."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{origin}: {_fault(error)}") from None


def shown(value: Any) -> str:
    """A value in an error sentence, cut short."""
    return _short.repr(value)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part)[:60] for part in fault["loc"] if not _names_a_branch(part))
    if fault["type"] == "missing":
        return f"{place} is missing"
    if fault["type"] == "literal_error":
        return f"{place} = {shown(fault['input'])} has no equivalent in Litmus; valid: {fault['ctx']['expected']}"
    if fault["type"] == "value_error":
        return f"{place} = {shown(fault['input'])}: {fault['ctx']['error']}" if place else str(fault["ctx"]["error"])
    return f"{place} = {shown(fault['input'])}; {_valid(fault)}"


def _names_a_branch(part: Any) -> bool:
    """Whether a part of a fault's place is pydantic's name for one of several types, not a key of the file."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float", "bool", "AddedToken"))


def _valid(fault: Any) -> str:
    kind, said = fault["type"], fault["msg"]
    if kind.startswith("int"):
        return "a whole number is valid"
    if kind.startswith(("model_", "dict_")):
        return "a mapping is valid"
    if kind.startswith("float"):
        return "a number is valid"
    return said[:1].lower() + said[1:].replace("Input", "input")


def _deeper_than(content: Any, limit: int) -> bool:
    level: list[Any] = [content]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
