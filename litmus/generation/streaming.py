"""Text as it grows: no character is split, no token is read twice, and nothing of a stop string is shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from litmus.data import Tokenizer
from litmus.errors import BadInput


class TextStream:
    """Turns the tokens of one row into pieces of text; together they are what `tokenizer.decode` gives for all.

    `begins` says that nothing stands before the text: a space that the tokenizer puts there is none of it.
    Bytes that do not make a character yet wait for the next token, and so does an end that may begin a stop string.
    After one of `stop` has come, `stopped` is True: the text ends before it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, begins: bool = False) -> None:
        if not all(stop):
            raise BadInput("an empty stop string would stop everything; give at least one character")
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._drops_a_space = begins and tokenizer.puts_a_space

    def feed(self, token: int) -> str:
        """The text that is certain after one more token; often none."""
        text = self._characters.decode(self._tokenizer.piece(token))
        if self._drops_a_space and text:
            self._drops_a_space, text = False, text.removeprefix(" ")
        return self._certain(text)

    def finish(self) -> str:
        """What was held back, when no more tokens come; a character that was cut becomes U+FFFD."""
        text = self._certain(self._characters.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
