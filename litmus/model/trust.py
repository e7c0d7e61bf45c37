"""Which plug-in code this user has run himself: the digests of every file he named, kept in his own state folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from litmus.errors import printable
from litmus.files import read_regular_file

LIST = "trusted_plugins"
_LINE = re.compile(rb'([0-9a-f]{64}) \d{4}-\d{2}-\d{2} ".*"')
_named: set[str] = set()
_told: set[str] = set()


def state_folder() -> Path:
    """$LITMUS_STATE, else $XDG_STATE_HOME/litmus, else ~/.local/state/litmus."""
    if own := os.environ.get("LITMUS_STATE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "litmus"


def is_trusted(sha256: str) -> bool:
    """Whether this user has named a file of exactly this content, in this process or in an earlier one."""
    if sha256 in _named:
        return True
    try:
        return sha256 in _listed(state_folder() / LIST)
    except (OSError, RuntimeError):  # no home folder is a RuntimeError
        return False


def trust(sha256: str, file: Path) -> None:
    """Remember that the user named `file`, whose content has this digest; where nothing can be kept, stderr says so.

    Processes may do so at the same time: a line is appended by a single write, and damaged lines count for nothing.
    """
    _named.add(sha256)
    place = "the state folder"
    try:
        place = str(state_folder() / LIST)
        if sha256 in _listed(Path(place)):
            return
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        line = f"{sha256} {datetime.now(UTC):%Y-%m-%d} {json.dumps(str(file))}\n".encode()
        with open(place, "ab+", buffering=0) as entries:
            if entries.seek(0, os.SEEK_END):
                entries.seek(-1, os.SEEK_END)
                line = line if entries.read(1) == b"\n" else b"\n" + line  # after what a killed process left
            entries.write(line)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _say_once(f"{place} cannot be written ({reason}): runs of {file} will need --trust-plugin")


def _listed(entries: Path) -> set[str]:
    if not entries.exists():
        return set()
    found = (_LINE.fullmatch(line) for line in read_regular_file(entries).split(b"\n"))
    return {match[1].decode() for match in found if match}


def _say_once(sentence: str) -> None:
    if sentence not in _told and sys.stderr is not None:
        _told.add(sentence)
        with contextlib.suppress(OSError, ValueError):  # nobody reads it
            print(f"litmus: {printable(sentence)}", file=sys.stderr)
