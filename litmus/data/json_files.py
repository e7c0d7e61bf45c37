"""JSON files that others wrote: read with bounds, and checked against what a pydantic model declares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from litmus import yaml_json
from litmus.errors import BadInput, shown
from litmus.yaml_json import mapping

M = TypeVar("M", bound="Declared")


class Declared(BaseModel):
    """What is read of a file: exact types and finite numbers. Other keys may stand there and are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; BadInput for one that cannot be read, is no JSON or mapping, or can't be written."""
    content = mapping(yaml_json.read_json(path), str(path))
    try:
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise BadInput(f"{path} holds NaN, infinity or half a character, which are no values of JSON") from None
    return content


def checked(model: type[M], raw: dict[str, Any], origin: str) -> M:
    """`raw` as `model` declares it; BadInput names the first key that is wrong, its value and what would be valid."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{origin}: {_fault(error)}") from None


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
