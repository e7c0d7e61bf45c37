"""Continuations as they are printed: one as it is written, several in order, or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from litmus.generation.generate import Piece

BETWEEN = "\n---\n"


@dataclass
class Continuation:
    """What has been written after one prompt."""

    prompt: str
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: str | None = None


class Printer:
    """Takes pieces as they come and prints each continuation when it and all before it are done.

    A single one is printed piece by piece. `close` prints what was not finished, after Ctrl-C.
    """

    def __init__(self, prompts: Sequence[str], out: TextIO, *, as_json: bool, logprobs: bool) -> None:
        self._rows = [Continuation(prompt) for prompt in prompts]
        self._out = out
        self._json = as_json
        self._logprobs = logprobs
        self._live = len(prompts) == 1 and not as_json
        self._printed = 0

    def take(self, piece: Piece) -> None:
        """One more piece."""
        row = self._rows[piece.row]
        row.text += piece.text
        row.finished = piece.finished
        if piece.token is not None:
            row.tokens.append(piece.token)
        if piece.logprob is not None:
            row.logprobs.append(piece.logprob)
        if self._live:
            print(piece.text, end="", file=self._out, flush=True)
            return
        while self._printed < len(self._rows) and self._rows[self._printed].finished:
            self._print()

    def close(self) -> None:
        """Print what is still open, and end the last line."""
        while not self._live and self._printed < len(self._rows):
            self._print()
        if not self._json:
            print(file=self._out, flush=True)

    def _print(self) -> None:
        row = self._rows[self._printed]
        if self._json:
            print(json.dumps(self._fields(row), ensure_ascii=False), file=self._out, flush=True)
        else:
            print(BETWEEN * (self._printed > 0) + row.text, end="", file=self._out, flush=True)
        self._printed += 1

    def _fields(self, row: Continuation) -> dict[str, Any]:
        fields = {"prompt": row.prompt, "text": row.text, "finished": row.finished or "interrupted"}
        return {**fields, "tokens": row.tokens, "logprobs": row.logprobs} if self._logprobs else fields
