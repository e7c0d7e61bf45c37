"""A case as plain data: files that are written or damaged, then commands; printed as JSON it can be tried again."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fuzzing.commands import Streams

RAW = {
    "@@deep": "[" * 3000 + "]" * 3000,
    "@@mappings": '{"a":' * 3000 + "1" + "}" * 3000,
    "@@digits": "9" * 5000,
    "@@400": "7" * 400,
    "@@date": "2020-01-01",
    "@@time": "2020-01-01 10:00:00",
    "@@nan": "NaN",
    "@@.nan": ".nan",
    "@@inf": "-Infinity",
    "@@1e400": "1e400",
    "@@lone": '"\\ud800"',
    "@@nul": '"a\\u0000b"',
    "@@merge": "<<",
    "@@alias": "*a",
    "@@object": "!!python/object/apply:os.system [touch hacked]",
}
"""What no JSON writer writes: each name, as a string in a document, stands for this text."""


@dataclass(frozen=True)
class Change:
    """One change to the world before the commands: `what` is done to the file or folder `path`."""

    what: str
    path: str
    value: Any = None
    key: tuple[str | int, ...] = ()


@dataclass(frozen=True)
class Case:
    """What is tried: changes to the files, then commands with these streams."""

    commands: tuple[tuple[str, ...], ...]
    changes: tuple[Change, ...] = ()
    streams: Streams = field(default_factory=Streams)
    endless: bool = False

    def to_json(self) -> str:
        plain = asdict(self)
        plain["streams"] = {key: value for key, value in plain["streams"].items() if value != getattr(Streams(), key)}
        return json.dumps({key: value for key, value in plain.items() if value}, ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> Case:
        plain = json.loads(text)
        changes = tuple(Change(**{**change, "key": tuple(change["key"])}) for change in plain.get("changes", ()))
        commands = tuple(tuple(command) for command in plain["commands"])
        return cls(commands, changes, Streams(**plain.get("streams", {})), plain.get("endless", False))


def apply(change: Change, work: Path) -> None:
    """Make one change; what cannot be done any more (an earlier change took the file away) is left out."""
    path = work / change.path
    try:
        _CHANGES[change.what](path, change)
    except (OSError, KeyError, IndexError, TypeError, ValueError, RecursionError):
        return


def document(path: Path) -> Any:
    """What a JSON, JSON-lines or YAML file holds; of JSON lines the first."""
    import yaml

    text = _content(path).decode()
    if path.suffix == ".jsonl":
        return json.loads(text.splitlines()[0])
    return yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)


def written(content: Any) -> str:
    """JSON (which YAML reads too) with the names of RAW replaced by what they stand for."""
    text = json.dumps(content)
    for name, raw in RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, change: Change) -> None:
    _gone(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(change.value.encode("utf-8", "surrogateescape"))


def _content(path: Path) -> bytes:
    """What the file holds; OSError, so that the change is left out, for a device: a link may lead to an endless one."""
    if not path.is_file():
        raise OSError(f"{path} is no file")
    return path.read_bytes()


def _half(path: Path, change: Change) -> None:
    content = _content(path)
    path.write_bytes(content[: int(len(content) * change.value)])


def _flip(path: Path, change: Change) -> None:
    content = bytearray(_content(path))
    content[int(change.value * (len(content) - 1))] ^= 0xFF
    path.write_bytes(bytes(content))


def _insert(path: Path, change: Change) -> None:
    content = _content(path)
    share, text = change.value
    place = int(share * len(content))
    path.write_bytes(content[:place] + text.encode("utf-8", "surrogateescape") + content[place:])


def _folder(path: Path, change: Change) -> None:
    _gone(path)
    path.mkdir(parents=True)
    if change.value:
        (path / "file").write_text("not litmus's\n")


def _link(path: Path, change: Change) -> None:
    _gone(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(change.value)


def _set(path: Path, change: Change) -> None:
    content = document(path)
    inner = content
    if not change.key:
        content = change.value
    else:
        for key in change.key[:-1]:
            inner = inner[key]
        if change.value == "@@drop":
            del inner[change.key[-1]]
        else:
            inner[change.key[-1]] = change.value
    lines = _content(path).decode().splitlines()[1:] if path.suffix == ".jsonl" else []
    path.write_text("\n".join([written(content), *lines]) + "\n", encoding="utf-8")


def _json(path: Path, change: Change) -> None:
    _gone(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written(change.value), encoding="utf-8")


def _copy(path: Path, change: Change) -> None:
    source = path.parent / change.value
    _gone(path)
    (shutil.copytree if source.is_dir() else shutil.copy)(source, path)  # type: ignore[operator]


_CHANGES: dict[str, Any] = {
    "missing": lambda path, change: _gone(path),
    "empty": lambda path, change: path.write_bytes(b""),
    "garbage": lambda path, change: path.write_bytes(bytes(range(256)) * (change.value or 1)),
    "half": _half,
    "flip": _flip,
    "insert": _insert,
    "folder": _folder,
    "link": _link,
    "set": _set,
    "write": _write,
    "json": _json,
    "copy": _copy,
    "lines": lambda path, change: path.write_text("\n".join(written(row) for row in change.value) + "\n"),
}
