"""The list of trusted plug-in code: digests of all files that the user has named, in the user's state folder."""

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

TRUST_FILE = "trusted_plugins"
_LINE = re.compile(rb'([0-9a-f]{64}) \d{4}-\d{2}-\d{2} ".*"')
_named: set[str] = set()
_warned: set[str] = set()


def state_folder() -> Path:
    """$LITMUS_STATE, else $XDG_STATE_HOME/litmus, else ~/.local/state/litmus."""
    if folder := os.environ.get("LITMUS_STATE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "litmus"


def is_trusted(sha256: str) -> bool:
    """Whether the user has named a file with this content, in this process or an earlier one."""
    if sha256 in _named:
        return True
    try:
        return sha256 in _listed(state_folder() / TRUST_FILE)
    except (OSError, RuntimeError):  # no home folder is a RuntimeError
        return False


def trust(sha256: str, file: Path) -> None:
    """Record that the user named `file`, whose content has this digest; warn on stderr if it cannot be saved.

    Safe for concurrent processes: a line is appended by a single write, and damaged lines are ignored.
    """
    _named.add(sha256)
    target = "the state folder"
    try:
        target = str(state_folder() / TRUST_FILE)
        if sha256 in _listed(Path(target)):
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        line = f"{sha256} {datetime.now(UTC):%Y-%m-%d} {json.dumps(str(file))}\n".encode()
        with open(target, "ab+", buffering=0) as entries:
            if entries.seek(0, os.SEEK_END):
                entries.seek(-1, os.SEEK_END)
                line = line if entries.read(1) == b"\n" else b"\n" + line  # a killed process may have written half
            entries.write(line)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _warn_once(f"{target} cannot be written ({reason}): runs of {file} will need --trust-plugin")


def _listed(entries: Path) -> set[str]:
    if not entries.exists():
        return set()
    found = (_LINE.fullmatch(line) for line in read_regular_file(entries).split(b"\n"))
    return {match[1].decode() for match in found if match}


def _warn_once(sentence: str) -> None:
    if sentence not in _warned and sys.stderr is not None:
        _warned.add(sentence)
        with contextlib.suppress(OSError, ValueError):  # stderr is closed
            print(f"litmus: {printable(sentence)}", file=sys.stderr)
