"""The one exception for a user's mistake, and the suggestion that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Input that cannot be used: one sentence naming the thing, what was found and what would be valid.

    The command line prints the sentence to stderr and exits with code 2; nobody sees a traceback.
    """


def nearest(found: str, valid: Iterable[str]) -> str:
    """Say which valid name comes closest to `found`, or list the valid ones: the tail of an error sentence."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(found, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "valid: " + ", ".join(names)


def missing_extra(package: str, extra: str, purpose: str) -> BadInput:
    """The error for an optional dependency that is not installed; names the extra that brings it."""
    return BadInput(f"{purpose} needs the package {package!r}; install it with: pip install 'litmus-lm[{extra}]'")
