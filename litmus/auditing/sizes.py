"""Lengths and batch sizes to try, from the numbers in a model's own code, attributes and configuration.

A path that a model takes from some length on, a window or a block, is stated somewhere as a number c: sequences of
c - 1, c, c + 1 and 2 c tokens show what changes there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from litmus.auditing.target import AuditTarget

BLOCKS = (24, 40, 48, 80, 96, 112)
"""Block sizes other than powers of two and ten; multiples of several of them are tried as lengths."""

BLOCK_MULTIPLES = (240, 336, 480, 560, 672)
"""Each a multiple of at least three of `BLOCKS`."""

BATCHES = tuple(range(1, 34))

NOT_OWN_CODE = ("torch", "litmus", "builtins", "abc", "typing", "transformers")
"""Packages whose code is not searched, except `transformers.models`: their numbers are no sizes of the model."""

MAX_NESTING = 4


def stated_numbers(target: AuditTarget) -> list[int]:
    """The integers from 2 up in the model's code first, then in its attributes and configuration."""

    def collect() -> list[int]:
        model = target.unperturbed
        if not isinstance(model, nn.Module):
            return []
        numbers: dict[int, None] = {}
        for found in (code_numbers(model), attribute_numbers(model)):
            for number in found:
                if number >= 2:
                    numbers.setdefault(number)
        return list(numbers)

    return list(target.once("stated numbers", collect))


def own_lengths(target: AuditTarget, longest: int) -> list[int]:
    """c - 1, c, c + 1 and 2 c of the stated numbers c, multiples of unusual block sizes, and parts of the context."""
    stated = stated_numbers(target)
    around = [length for c in stated for length in (c + 1, c, 2 * c, c - 1)]
    parts = [target.context, target.context // 2 + 1, 3 * target.context // 4 + 1, target.context // 3 + 1]
    found = dict.fromkeys([*parts[:1], *around, *BLOCK_MULTIPLES, *parts[1:]])
    return [length for length in found if 2 <= length <= longest]


def own_batches(target: AuditTarget) -> list[int]:
    """Batch sizes 1 to 33 and those around stated numbers up to 128."""
    around = {batch for c in stated_numbers(target) if c <= 128 for batch in (c, c + 1)}
    return sorted({*BATCHES, *around})


def code_numbers(model: nn.Module) -> Iterator[int]:
    """Integers in the code of the model's own classes and of the Python modules that define them."""
    seen: set[str] = set()
    for kind in {kind for module in model.modules() for kind in type(module).__mro__}:
        if not is_own(kind.__module__):
            continue
        for function in vars(kind).values():
            if isinstance(function, FunctionType):  # of a class made within a function, its closure
                yield from (c.cell_contents for c in function.__closure__ or () if is_integer(contents(c)))
        if kind.__module__ not in seen and kind.__module__ in sys.modules:
            seen.add(kind.__module__)
            yield from module_numbers(sys.modules[kind.__module__])


def is_own(module: str) -> bool:
    return module.startswith("transformers.models.") or module.partition(".")[0] not in NOT_OWN_CODE


def module_numbers(module: ModuleType) -> Iterator[int]:
    """Integers among the names of a Python module, of its classes, and in its functions' code."""
    for value in list(vars(module).values()):
        if is_integer(value):
            yield value
        elif isinstance(value, (type, FunctionType)) and value.__module__ == module.__name__:
            yield from definition_numbers(value)


def definition_numbers(definition: Any) -> Iterator[int]:
    if isinstance(definition, FunctionType):
        yield from code_constants(definition.__code__)
        yield from (value for value in definition.__defaults__ or () if is_integer(value))
        yield from (value for value in (definition.__kwdefaults__ or {}).values() if is_integer(value))
    elif isinstance(definition, (staticmethod, classmethod)):
        yield from definition_numbers(definition.__func__)
    elif isinstance(definition, property):
        yield from definition_numbers(definition.fget)
    elif isinstance(definition, type):
        for value in vars(definition).values():
            if is_integer(value):
                yield value
            elif not isinstance(value, type):
                yield from definition_numbers(value)


def code_constants(code: CodeType) -> Iterator[int]:
    """Integers in a function's code, with those of the functions within it; 4 * 128 is one number, 512."""
    for constant in code.co_consts:
        if is_integer(constant):
            yield constant
        elif isinstance(constant, CodeType):
            yield from code_constants(constant)
        elif isinstance(constant, tuple):
            yield from (number for number in constant if is_integer(number))


def attribute_numbers(model: nn.Module) -> Iterator[int]:
    """Integers among the attributes of all modules, of their configurations, and the sizes of their buffers."""
    for module in model.modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training":
                yield from nested_numbers(value)
        for buffer in module._buffers.values():
            if buffer is not None:
                yield from buffer.shape


def nested_numbers(value: Any, depth: int = 0) -> Iterator[int]:
    if is_integer(value):
        yield value
    elif depth < MAX_NESTING and isinstance(value, Mapping):
        for item in value.values():
            yield from nested_numbers(item, depth + 1)
    elif depth < MAX_NESTING and isinstance(value, (list, tuple)):
        for item in value[:100]:
            yield from nested_numbers(item, depth + 1)
    elif depth < MAX_NESTING and not isinstance(value, (nn.Module, torch.Tensor, type, FunctionType, ModuleType)):
        fields = getattr(value, "__dict__", None)
        if isinstance(fields, dict):
            yield from nested_numbers(fields, depth + 1)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return None
