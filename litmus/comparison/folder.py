"""The folder of a comparison: whose it is, and that one process works in it at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litmus.comparison.plan import Plan
from litmus.comparison.results import refuse_what_is_no_file
from litmus.comparison.trial import AUDITS
from litmus.errors import BadInput
from litmus.files import write_atomically, writing
from litmus.locks import folder_lock
from litmus.yaml_json import read_json

PLAN, TRIALS, RESULT, REPORT = "plan.json", "trials", "comparison.json", "report.html"


@contextlib.contextmanager
def held(folder: Path, plan: Plan) -> Iterator[None]:
    """Work in `folder` alone, once it is known to be free or to hold this very plan; BadInput otherwise."""
    with folder_lock(folder, "comparing in"):
        _claim(folder, plan)
        yield


def _claim(folder: Path, plan: Plan) -> None:
    """Write down whose folder this is. A plan of which nothing was trained yet gives way to another."""
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{folder} is a file; a comparison needs a folder of its own, so choose another --name")
        folder.mkdir(parents=True, exist_ok=True)
    entries = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if entries and not entries & {PLAN, AUDITS, TRIALS}:
        raise BadInput(f"{folder} holds something other than a comparison ({min(entries)}); choose another --name")
    for name in (PLAN, RESULT, REPORT):
        refuse_what_is_no_file(folder / name)
    new = json.loads(json.dumps(plan.content()))
    if next((folder / TRIALS).rglob("*.json"), None) is not None:
        theirs, ours = _flat(_kept_plan(folder) or new), _flat(new)
        for key in [*theirs, *ours]:
            if theirs.get(key) != ours.get(key):
                raise BadInput(
                    f"{folder} belongs to a comparison with {key} = {theirs.get(key)!r}, and {ours.get(key)!r} was "
                    f"asked for; choose another --name, or delete the folder"
                )
    write_atomically(folder / PLAN, json.dumps(new, indent=1))


def _kept_plan(folder: Path) -> dict[str, Any] | None:
    """The plan in the folder; None where it is missing or damaged, as every trial carries its own terms too."""
    try:
        kept = read_json(folder / PLAN)
    except BadInput:
        return None
    return kept if isinstance(kept, dict) else None


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if not isinstance(value, dict):
        return {place: value}
    inner = (_flat(part, f"{place}.{key}" if place else str(key)) for key, part in value.items())
    return {key: part for each in inner for key, part in each.items()}
