"""YAML and JSON from untrusted files as plain data, with limits on size, depth and digits.

The result consists of mappings with text keys, lists, text, numbers, booleans and None: no dates, no other tags, no
duplicate keys. Unreadable input is BadInput with one sentence.
"""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from litmus.errors import BadInput, shown

MAX_DEPTH = 64
"""Nesting of mappings and lists; code that uses the data may recurse, and Python allows about 1000 calls."""

MAX_YAML_BYTES, MAX_JSON_BYTES = 2**20, 2**28
"""PyYAML takes about ten seconds per MiB."""

MAX_VALUES = 100_000
"""Values in a YAML text after expanding its aliases: ten nested aliases can expand to ten thousand million."""

MAX_DIGITS = 40
"""Digits of an integer in JSON; published configs write 10**30 for "no limit"."""

_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


def read_yaml(path: str | Path) -> Any:
    """The YAML in a file, as plain data."""
    return parse_yaml(_content(Path(path), MAX_YAML_BYTES), str(path))


def read_json(path: str | Path) -> Any:
    """The JSON in a file, as plain data."""
    return parse_json(_content(Path(path), MAX_JSON_BYTES), str(path))


def parse_yaml(text: str | bytes, origin: str) -> Any:
    """YAML as plain data, with 64-bit integers. `origin` is what an error calls the text."""
    try:
        value = yaml.load(text, _Loader)
    except BadInput as error:
        raise BadInput(f"{origin}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{origin} is not YAML: {_reason(error)}") from None
    except RecursionError:
        raise BadInput(_too_deep(origin)) from None
    _check(value, origin, most=MAX_VALUES)
    return value


def parse_json(text: str | bytes, origin: str) -> Any:
    """JSON as plain data. `origin` is what an error calls the text."""
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(decoded, parse_int=_json_number, object_pairs_hook=_unique_keys)
    except BadInput as error:
        raise BadInput(f"{origin}: {error}") from None
    except ValueError as error:
        raise BadInput(f"{origin} is not JSON: {_reason(error)}") from None
    except RecursionError:
        raise BadInput(_too_deep(origin)) from None
    _check(value, origin)
    return value


def mapping(value: Any, origin: str, holds: str = "keys") -> dict[str, Any]:
    """Return `value`; BadInput if it is not a mapping."""
    if not isinstance(value, dict):
        raise BadInput(f"{origin} must hold a mapping of {holds}, found {shown(value)}")
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without dates and base-60 numbers, and with an error for duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        for key in keys:
            if not isinstance(key, str):
                raise BadInput(f"the key {shown(key)} (line {node.start_mark.line + 1}) is not a text; quote it")
        _check_unique(keys, f" (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        text = self.construct_scalar(node)
        number = super().construct_yaml_int(node) if len(text) <= 66 else 2**63
        if not -(2**63) <= number < 2**63:
            raise BadInput(f"the number {shown(text, quoted=False)} is beyond 64 bits")
        return number


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in _PLAIN
}
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.removeprefix(_TAG) not in ("timestamp", "int", "float")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"[-+]?(?:0b[01_]+|0[0-7_]*|[1-9][0-9_]*|0x[0-9a-fA-F_]+)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    list("-+0123456789."),
)


def _content(path: Path, largest: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(
                f"{path} is {'a folder' if path.is_dir() else 'not a regular file'}; a file is expected there"
            )
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, BadInput):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{shown(str(path), quoted=False, limit=300)} cannot be read: {reason}") from None
    if len(content) > largest:
        raise BadInput(f"{path} has more than {largest / 2**20:,.0f} MiB, the limit for such a file")
    return content


def _json_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise BadInput(f"the number {shown(text, quoted=False)} has more than {MAX_DIGITS} digits")
    return int(text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_unique([key for key, _ in pairs])
    return dict(pairs)


def _check_unique(keys: list[str], where: str = "") -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise BadInput(f"the key {shown(key)} appears twice in one mapping{where}; keep one of them")
        seen.add(key)


def _check(value: Any, origin: str, most: float = math.inf) -> None:
    """BadInput for data nested deeper than `MAX_DEPTH` (or within itself), or with more than `most` values."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for outer in level:
            if isinstance(outer, dict | list):
                count += len(outer)
                if count > most:
                    raise BadInput(f"{origin} has more than {most:,} values after its aliases are expanded")
                inner += outer.values() if isinstance(outer, dict) else outer
        if not inner:
            return
        level = inner
    raise BadInput(_too_deep(origin))


def _too_deep(origin: str) -> str:
    return f"{origin} is nested more than {MAX_DEPTH} deep, or within itself"


def _reason(error: Exception) -> str:
    return shown(" ".join(str(error).split()), quoted=False, limit=200)


def as_yaml(plain: dict[str, Any]) -> str:
    """Plain data as YAML, in the form of all files that Litmus writes."""
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
