"""The exceptions for bad input and failed checks, and helpers that write their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


class BadInput(ValueError):
    """Input that cannot be used: one sentence naming the thing, what was found and what would be valid.

    The command line prints the sentence to stderr and exits with code 2, without a traceback. Control characters, which
    file names may contain, are escaped, so that the message is one line.
    """

    def __init__(self, sentence: object = "") -> None:
        super().__init__(printable(str(sentence)))


class Failed(Exception):
    """The thing tested failed (a diverged training, a failed check): one line on stderr and exit code 1.

    Not a RuntimeError: contextlib takes a RuntimeError caused by StopIteration for the StopIteration itself.
    """

    def __init__(self, sentence: object = "") -> None:
        super().__init__(printable(str(sentence)))


def message(error: BaseException) -> str:
    """The message of an exception; empty if its own code raises."""
    try:
        return str(error)
    except Exception:
        return ""


def printable(text: str) -> str:
    """`text` on one line: characters that cannot be printed are escaped as in a Python string."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def nearest(found: str, valid: Iterable[str]) -> str:
    """The end of an error sentence: the valid names closest to `found`, or all valid names."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(found[:100], names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "valid: " + ", ".join(names)


def shown(value: object, *, quoted: bool = True, limit: int = 60) -> str:
    """`value` for an error sentence: on one line, without control characters, cut in the middle if long."""
    text = printable(repr(value) if quoted or not isinstance(value, str) else value)
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[-limit // 4 :]} ({len(text):,} characters)"


def missing_extra(package: str, extra: str, purpose: str) -> BadInput:
    """The error for a missing optional dependency; it names the extra to install."""
    return BadInput(f"{purpose} needs the package {package!r}; install it with: pip install 'litmus-lm[{extra}]'")


def first_fault(error: ValidationError, model: type[BaseModel]) -> str:
    """The first entry of a pydantic error as one clause: the key, what was found and what is valid."""
    fault = error.errors()[0]
    *above, key = fault["loc"] or ("",)
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {place!r}; {nearest(str(key), _fields(model, above))}"
    if fault["type"] == "missing":
        return f"the key {place!r} is missing"
    if fault["type"] == "value_error":
        reason = fault["ctx"]["error"]
        return str(reason) if isinstance(reason, BadInput) or not place else f"{place}: {reason}"
    if fault["type"] == "model_type":
        keys = ", ".join(_fields(model, [*above, key]))
        return f"{place} = {shown(fault['input'])} must be a mapping with keys such as {keys}"
    return f"{place} = {shown(fault['input'])} is not valid: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _fields(model: type[BaseModel], path: list[Any]) -> Iterable[str]:
    """The keys that a mapping at `path` inside `model` may have."""
    for step in path:
        if isinstance(step, str) and step in model.model_fields:
            inner = _model_in(model.model_fields[step].annotation)
            model = inner or model
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
