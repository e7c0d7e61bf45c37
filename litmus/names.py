"""Names that become files and folders: of recipes, runs and comparisons, checked where they enter."""

from __future__ import annotations

import hashlib

from litmus.errors import BadInput, shown

LONGEST = 100
LONGEST_BYTES = 200
SEPARATORS = "/\\"


def checked_name(name: str, what: str) -> str:
    """`name` if it can be that of a file anywhere; else BadInput, which calls it `what`, such as "a run's name"."""
    if fault := _fault(name):
        raise BadInput(
            f"{what} is {shown(name)}, and {fault}; up to {LONGEST} printable characters without / and \\ are valid, "
            f"the first of them neither a dot nor a dash"
        )
    return name


def folder_safe(name: str) -> str:
    """`name` where it can be a folder's; else what is left of it without what cannot be, and eight hex digits of it."""
    if not _fault(name):
        return name
    kept = "".join(letter if letter.isprintable() and letter not in SEPARATORS else "_" for letter in name)
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{kept.strip().lstrip('.-')[:40] or 'unnamed'}-{digest}"


def _fault(name: str) -> str:
    """What keeps `name` from being the name of a file; empty when nothing does."""
    if not name.strip():
        return "there is nothing in it"
    if not name.isprintable():
        return "it holds a character that cannot be printed"
    if any(letter in SEPARATORS for letter in name):
        return "it would be a path"
    if name[0] in ".-":
        return f"it begins with {name[0]!r}"
    if name != name.strip():
        return "it begins or ends with a space"
    size = len(name.encode())
    if len(name) > LONGEST or size > LONGEST_BYTES:
        return f"it has {len(name)} characters ({size} bytes of UTF-8, of which {LONGEST_BYTES} may be)"
    return ""
