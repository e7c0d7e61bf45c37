"""Names of recipes, runs and comparisons, which become names of files and folders."""

from __future__ import annotations

import hashlib

from litmus.errors import BadInput, shown

MAX_NAME_CHARACTERS = 100
MAX_NAME_BYTES = 200
SEPARATORS = "/\\"


def check_name(name: str, what: str) -> str:
    """Return `name` if it is a valid file name on every system; else BadInput that calls it `what` ("a run's name")."""
    if fault := _fault(name):
        raise BadInput(
            f"{what} is {shown(name)}, and {fault}; up to {MAX_NAME_CHARACTERS} printable characters without / and \\ "
            f"are valid, the first of them neither a dot nor a dash"
        )
    return name


def folder_safe(name: str) -> str:
    """`name` if it is a valid folder name; else its valid characters and eight hex digits of its hash."""
    if not _fault(name):
        return name
    safe = "".join(letter if letter.isprintable() and letter not in SEPARATORS else "_" for letter in name)
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe.strip().lstrip('.-')[:40] or 'unnamed'}-{digest}"


def _fault(name: str) -> str:
    """Why `name` is not a valid file name; empty if it is."""
    if not name.strip():
        return "it is empty"
    if not name.isprintable():
        return "it contains a character that cannot be printed"
    if any(letter in SEPARATORS for letter in name):
        return "it would be a path"
    if name[0] in ".-":
        return f"it begins with {name[0]!r}"
    if name != name.strip():
        return "it begins or ends with a space"
    size = len(name.encode())
    if len(name) > MAX_NAME_CHARACTERS or size > MAX_NAME_BYTES:
        return f"it has {len(name)} characters ({size} bytes of UTF-8, of which {MAX_NAME_BYTES} may be)"
    return ""
