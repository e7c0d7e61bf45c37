"""Incremental detokenizer: emits only complete UTF-8 characters and holds back text that may start a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from litmus.data import Tokenizer
from litmus.errors import BadInput


class IncrementalDetokenizer:
    """Turns the tokens of one sequence into chunks of text, whose concatenation is `tokenizer.decode` of all tokens.

    `at_start`: the text has no prompt, so that a space which the tokenizer adds before a text is removed. After one of
    the `stop` strings, `stopped` is True; the text ends before the string. Unlike tokenizers' DecodeStream, it accepts
    any bytes (a model may write invalid UTF-8) and has an end, at which an incomplete character becomes U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, at_start: bool = False) -> None:
        if not all(stop):
            raise BadInput("an empty stop string would stop everything; give at least one character")
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._drop_space = at_start and tokenizer.adds_prefix_space

    def feed(self, token: int) -> str:
        """The text that is final after one more token; often empty."""
        text = self._utf8.decode(self._tokenizer.piece(token))
        if self._drop_space and text:
            self._drop_space, text = False, text.removeprefix(" ")
        return self._release(text)

    def finish(self) -> str:
        """The text held back so far, when no more tokens come; an incomplete character becomes U+FFFD."""
        text = self._release(self._utf8.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [index for stop in self._stop if (index := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
