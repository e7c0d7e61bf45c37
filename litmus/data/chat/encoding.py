"""Rendered messages as token ids: control tokens come from the template alone, and the ids of each reply are known.

Messages are marked before a template renders them. What lies between marks is content, in which the name of a control
token is plain text; what lies outside is the template's, in which it is that token.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from litmus.data.tokens.hf_tokenizer import ImportedTokenizer
from litmus.data.tokens.tokenizer import Tokenizer

# Unicode noncharacters, which no text is meant to hold. Trimming a content leaves them and what they enclose.
_CONTENT, _CONTENT_END, _NAME, _NAME_END = MARKS = ("\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3")
_END_OF = {_CONTENT: _CONTENT_END, _NAME: _NAME_END}
_NO_MARKS = dict.fromkeys(map(ord, MARKS))


@dataclass(frozen=True)
class Runs:
    """A rendered conversation as runs of plain text (str) and control tokens (int), which are encoded apart.

    replies: the runs [start, end) of each reply that was asked for, by the number of its message: what a model writes,
    which is the content, the spaces before it and the control token that ends it. ended: the replies that have one.
    """

    runs: list[str | int]
    replies: dict[int, tuple[int, int]]
    ended: frozenset[int]


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation, and the tokens [start, end) of each reply that was asked for."""

    ids: list[int]
    replies: dict[int, tuple[int, int]]
    ended: frozenset[int]


def marked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with marks around the text of each content and name; white space around a content stays outside."""
    return [{key: _marked(key, value) for key, value in message.items()} for message in messages]


def marked_name(name: str) -> str:
    """A name between marks."""
    return f"{_NAME}{name.translate(_NO_MARKS)}{_NAME_END}"


def _marked(key: str, value: Any) -> Any:
    if key == "name" and value:
        return marked_name(value)
    text = value.translate(_NO_MARKS) if key == "content" else ""
    core = text.strip()
    return text.replace(core, f"{_CONTENT}{core}{_CONTENT_END}", 1) if core else value


def split_runs(text: str, special: Mapping[str, int], replies: Collection[int], contents: Sequence[int]) -> Runs | None:
    """Split the rendering of marked messages; None unless it has the content of each of `contents` once, in order.

    special: the control tokens by name. replies: the numbers of the messages whose tokens are to be known. contents:
    the numbers of all messages that have a content.
    """
    names = "".join(f"|{re.escape(name)}" for name in sorted(filter(None, special), key=len, reverse=True))
    runs: list[str | int] = [""]
    found: dict[int, tuple[int, int]] = {}
    ended, inside, left, last = set(), "", list(contents), -1
    for piece in re.split(f"([{''.join(MARKS)}]{names})", text):
        if inside:
            inside = "" if piece == _END_OF[inside] else inside
            runs[-1] += "" if piece in MARKS else piece  # type: ignore[operator]
        elif piece == _CONTENT:
            if not left:
                return None
            inside, last = piece, left.pop(0)
            if last in replies:  # the beginning of a reply that a template gives does not end in a space
                before = str(runs[-1])
                runs[-1:] = [before.rstrip(" "), before[len(before.rstrip(" ")) :]]
                found[last] = (len(runs) - 1, len(runs))
        elif piece in special:
            runs += [special[piece], ""]
            if last in found and last not in ended:
                found[last] = (found[last][0], len(runs) - 1)
                ended.add(last)
        elif piece == _NAME:
            inside = piece
        elif piece in MARKS:
            return None
        else:
            runs[-1] += piece  # type: ignore[operator]
    return None if left or inside else Runs(runs, found, frozenset(ended))


def encode_runs(conversations: Sequence[Runs], tokenizer: Tokenizer) -> list[Encoded]:
    """The token ids of conversations, in one call of the tokenizer; a run that they share is encoded once."""
    texts: dict[tuple[str, bool], None] = {}
    for whole in conversations:
        texts |= dict.fromkeys(_texts(whole))
    ids = dict(
        zip(texts, tokenizer.encode_batch([text for text, _ in texts], [after for _, after in texts]), strict=True)
    )
    return [_joined(whole, iter([ids[text] for text in _texts(whole)]), tokenizer) for whole in conversations]


def _texts(whole: Runs) -> Iterator[tuple[str, bool]]:
    """The runs of plain text, each with whether it continues another one."""
    for number, run in enumerate(whole.runs):
        if isinstance(run, str) and run:
            yield run, number > 0 and isinstance(before := whole.runs[number - 1], str) and before != ""


def _joined(whole: Runs, encoded: Iterator[list[int]], tokenizer: Tokenizer) -> Encoded:
    parts = [[run] if isinstance(run, int) else next(encoded) if run else [] for run in whole.runs]
    own = [token for part in parts for token in part]
    ids = with_begin(own, tokenizer)
    starts = list(accumulate(map(len, parts), initial=len(ids) - len(own)))
    return Encoded(ids, {number: (starts[a], starts[b]) for number, (a, b) in whole.replies.items()}, whole.ended)


def with_begin(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The ids of a conversation after the tokens that begin a text, once: this is the only place that adds them.

    The template of an imported tokenizer writes its begin token itself, as in transformers.
    """
    if isinstance(tokenizer, ImportedTokenizer) and tokenizer.around is not None:
        return ids or list(tokenizer.prefix)
    begun = tuple(ids[: len(tokenizer.prefix)]) == tokenizer.prefix
    return ids if begun else [*tokenizer.prefix, *ids]
