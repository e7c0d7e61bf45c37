"""Training windows of threads: some turns, encoded by a chat template, of which the target turns are trained on."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from litmus.data.chat.encoding import Encoded, encode_runs
from litmus.data.chat.reading import Targets, ThreadSettings
from litmus.data.chat.template import ASSISTANT, ChatTemplate, Message
from litmus.data.chat.threads import Thread, ThreadTurn
from litmus.data.messages import SECONDS_BETWEEN_LINES, Log
from litmus.data.tokens.token_files import token_dtype
from litmus.data.tokens.tokenizer import Tokenizer
from litmus.errors import BadInput, shown

DEFAULT_TABLE_WINDOW = 4
DEFAULT_MAX_TOKENS, DEFAULT_MAX_TARGET = 1024, 512
BATCH_WINDOWS = 512
"""Windows that are encoded in one call of the tokenizer."""
PARTS = ("tokens", "scored", "starts", "threads")
"""The files of a split, SPLIT.PART.bin."""
COMPARED_WINDOWS = 64
"""Windows whose context is compared with the ids that a chat sends."""


@dataclass(frozen=True)
class WindowSettings:
    """`ThreadSettings` with all defaults decided."""

    window: int
    targets: Targets
    keep_head: bool
    pseudonyms: bool
    max_tokens: int
    max_target: int

    @classmethod
    def of(cls, settings: ThreadSettings, with_roles: bool) -> WindowSettings:
        """The settings for conversations with roles, or for a table of messages by authors."""
        tokens = settings.max_tokens or DEFAULT_MAX_TOKENS
        window = settings.window if settings.window is not None else 0 if with_roles else DEFAULT_TABLE_WINDOW
        return cls(
            window=window,
            targets=Targets.parse(settings.targets or (f"role:{ASSISTANT}" if with_roles else "every")),
            keep_head=settings.keep_head,
            pseudonyms=settings.pseudonyms,
            max_tokens=tokens,
            max_target=min(settings.max_target or DEFAULT_MAX_TARGET, tokens // 2),
        )


@dataclass(frozen=True)
class Window:
    """The turns `members` of a thread, of which `targets` are trained on; `order` sorts the windows of a split."""

    order: tuple[int, ...]
    thread: Thread
    members: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def messages(self) -> list[Message]:
        """The turns as messages; in a thread without roles, those by the authors of targets are the assistant's."""
        repliers = {self.thread.turns[number].author for number in self.targets}
        return [_message(self.thread.turns[number], repliers) for number in self.members]


def _message(turn: ThreadTurn, repliers: set[str | None]) -> Message:
    role = turn.role or ("assistant" if turn.author in repliers else "user")
    named: Message = {"role": role, "content": turn.text}
    return named if turn.author is None else {**named, "name": turn.author}


@dataclass
class WindowCounts:
    """What became of the target turns of a split, and of the tokens of its windows."""

    windows: int = 0
    tokens: int = 0
    target_tokens: int = 0
    targets: int = 0
    targets_truncated: int = 0
    terminators_trained: int = 0
    targets_too_early: int = 0
    targets_without_context: int = 0
    windows_cut_to_fit: int = 0
    names_of_control_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: WindowCounts) -> WindowCounts:
        return WindowCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def to_dict(self) -> dict[str, Any]:
        """The counts for a data card, with the lengths as median, 95th percentile and maximum."""
        ordered = np.repeat(
            *(np.array(part, dtype=np.int64) for part in zip(*sorted(self.lengths.items()), strict=True))
        )
        spread = {"median": 0.5, "p95": 0.95, "longest": 1.0}
        lengths = {name: int(np.quantile(ordered, at, method="inverted_cdf")) for name, at in spread.items()}
        return {
            **{name: value for name, value in vars(self).items() if name != "lengths"},
            "tokens_in_a_window": lengths,
        }


class WindowWriter:
    """Encodes the windows of threads and writes them: tokens, which of them are targets, starts, and threads."""

    def __init__(self, settings: WindowSettings, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self.settings, self.template, self.tokenizer = settings, template, tokenizer
        self._compared = 0
        self._control = re.compile("|".join(map(re.escape, filter(None, tokenizer.special))) or r"(?!)")

    def write(self, folder: Path, split: str, threads: Iterator[Thread], log: Log) -> WindowCounts:
        """Write a split's files; returns its counts."""
        counts, next_line = WindowCounts(), time.monotonic() + SECONDS_BETWEEN_LINES
        tokens, scored, starts, owners = ((folder / f"{split}.{part}.bin").open("wb") for part in PARTS)
        with tokens, scored, starts, owners:
            position, windows = 0, self._windows(threads, counts)
            while batch := list(islice(windows, BATCH_WINDOWS)):
                for window, ids, trained in self._encoded(batch, counts):
                    np.array(ids, token_dtype(self.tokenizer)).tofile(tokens)
                    trained.tofile(scored)
                    _write(starts, position)
                    _write(owners, window.thread.number)
                    position += len(ids)
                if time.monotonic() >= next_line:
                    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
                    log(f"encoding the {split} split: {counts.windows:,} windows, {counts.tokens:,} tokens")
            _write(starts, position)
        return counts

    def _windows(self, threads: Iterator[Thread], counts: WindowCounts) -> Iterator[Window]:
        for number, thread in enumerate(threads):
            counts.names_of_control_tokens += sum(bool(self._control.search(turn.text)) for turn in thread.turns)
            chosen = self.settings.targets.chosen([(turn.author, turn.role) for turn in thread.turns])
            thread = with_pseudonyms(thread) if self.settings.pseudonyms else thread
            windows = windows_of(thread, chosen, self.settings)
            counts.targets_too_early += len(chosen) - sum(len(window.targets) for window in windows)
            yield from (replace(window, order=(number, *window.order)) for window in windows)

    def _encoded(self, pending: list[Window], counts: WindowCounts) -> list[tuple[Window, list[int], np.ndarray]]:
        """The windows with their ids and which of them are trained on, cut until each fits."""
        done: list[tuple[Window, list[int], np.ndarray]] = []
        while pending:
            again: list[Window] = []
            for window, encoded in zip(pending, self._encode(pending), strict=True):
                spans = self._trained_spans(window, encoded)
                length = max(end for _, end in spans.values())
                if length - 1 <= self.settings.max_tokens:
                    done.append((window, encoded.ids[:length], self._trained(length, spans)))
                    self._count(window, encoded, spans, length, counts)
                    continue
                counts.windows_cut_to_fit += 1
                smaller = self._smaller(window, spans, length)
                counts.targets_without_context += not smaller
                again += smaller
            pending = again
        return sorted(done, key=lambda found: found[0].order)

    def _encode(self, windows: list[Window]) -> list[Encoded]:
        runs = []
        for window in windows:
            messages, replies = window.messages, [window.members.index(target) for target in window.targets]
            try:
                found = self.template.runs(messages, self.tokenizer, replies=replies)
            except BadInput as error:
                raise BadInput(f"{window.thread.turns[window.targets[0]].place}: {error}") from None
            if found is None or len(found.replies) < len(replies):
                raise BadInput(
                    f"{self.template.origin} changes or leaves out the contents of messages, so that the tokens of a "
                    f"reply are not known ({window.thread.turns[window.targets[0]].place}); give another: "
                    f"--chat template=FILE"
                )
            runs.append(found)
        encoded = encode_runs(runs, self.tokenizer)
        for window, one in zip(windows, encoded, strict=True):
            if self._compared < COMPARED_WINDOWS:
                self._compare_with_chat(window, one)
        return encoded

    def _compare_with_chat(self, window: Window, encoded: Encoded) -> None:
        """BadInput unless the context of the first target has the ids that a chat sends for it."""
        place = window.members.index(window.targets[0])
        messages = window.messages
        if messages[place]["role"] != ASSISTANT:
            return  # templates begin replies of the assistant only
        self._compared += 1
        sent = self.template.encode(messages[:place], self.tokenizer, reply_name=messages[place].get("name"))
        if sent != encoded.ids[: encoded.replies[place][0]]:
            raise BadInput(
                f"{self.template.origin} begins a reply in a chat otherwise than it writes one "
                f"({window.thread.turns[window.targets[0]].place}), so that a chat would not send what was trained on; "
                f"give another: --chat template=FILE"
            )

    def _trained_spans(self, window: Window, encoded: Encoded) -> dict[int, tuple[int, int]]:
        """The tokens [start, end) of each target of a window that are trained on, by its place in the window."""
        limit = self.settings.max_target
        return {place: (start, min(end, start + limit)) for place, (start, end) in encoded.replies.items()}

    def _trained(self, length: int, spans: dict[int, tuple[int, int]]) -> np.ndarray:
        trained = np.zeros(length, dtype=np.bool_)
        for start, end in spans.values():
            trained[start:end] = True
        return trained

    def _smaller(self, window: Window, spans: dict[int, tuple[int, int]], length: int) -> list[Window]:
        """Windows with the same targets and less context; none if the last message before a target does not fit."""
        head = (0,) if self.settings.keep_head and window.members[0] == 0 else ()
        fitting = [place for place, (_, end) in spans.items() if end - 1 <= self.settings.max_tokens]
        if len(spans) > 1:
            last = max(fitting, default=min(spans))
            first = [target for target in window.targets if target <= window.members[last]]
            later = [target for target in window.targets if target > window.members[last]]
            rest = tuple(dict.fromkeys((*head, *window.members[last:])))
            return [
                replace(window, order=(*window.order, 0), members=window.members[: last + 1], targets=tuple(first)),
                *([replace(window, order=(*window.order, 1), members=rest, targets=tuple(later))] if later else []),
            ]
        context = window.members[len(head) : -1]
        if len(context) <= 1:
            return []
        excess = length - 1 - self.settings.max_tokens
        dropped = min(max(1, len(context) * excess // (2 * length)), len(context) - 1)
        return [replace(window, members=(*head, *window.members[len(head) + dropped :]))]

    def _count(
        self, window: Window, encoded: Encoded, spans: dict[int, tuple[int, int]], length: int, counts: WindowCounts
    ) -> None:
        whole = [place for place, span in spans.items() if span == encoded.replies[place]]
        counts.windows += 1
        counts.tokens += length
        counts.lengths[length] += 1
        counts.target_tokens += sum(end - start for start, end in spans.values())
        counts.targets += len(spans)
        counts.targets_truncated += len(spans) - len(whole)
        counts.terminators_trained += sum(place in encoded.ended for place in whole)


def windows_of(thread: Thread, chosen: list[int], settings: WindowSettings) -> list[Window]:
    """The windows of a thread with the targets `chosen`: `window` turns and the target after them, or the whole thread
    up to its last target. A target with fewer turns before it has no window."""
    if settings.window == 0:
        return [Window((0,), thread, tuple(range(chosen[-1] + 1)), tuple(chosen))] if chosen else []
    windows = []
    for target in chosen:
        first = target - settings.window
        if first >= 0:
            head = (0,) if settings.keep_head and first > 0 else ()
            windows.append(Window((target,), thread, (*head, *range(first, target + 1)), (target,)))
    return windows


def with_pseudonyms(thread: Thread) -> Thread:
    """The thread with its authors called User1, User2, ... in the order in which they speak, also within messages."""
    authors = dict.fromkeys(turn.author for turn in thread.turns if turn.author is not None)
    names = {author: f"User{number}" for number, author in enumerate(authors, 1)}
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    mention = re.compile(rf"(?<!\w)({'|'.join(longest_first)})(?!\w)") if names else re.compile(r"(?!)")
    return thread._replace(
        turns=[
            turn._replace(
                author=None if turn.author is None else names[turn.author],
                text=mention.sub(lambda found: names[found[1]], turn.text),
            )
            for turn in thread.turns
        ]
    )


def check_trainable(
    counts: WindowCounts, split: str, settings: WindowSettings, template: ChatTemplate, where: str
) -> None:
    """BadInput if a split has no target, or if no target has the token that ends it."""
    if counts.target_tokens == 0:
        before = f" with {settings.window} messages before it" if settings.window else ""
        which = str(settings.targets)
        lost = f" ({counts.targets_without_context} do not fit)" if counts.targets_without_context else ""
        raise BadInput(
            f"{where}: the {split} split has no turn to train on: targets = {shown(which)} chooses none{before}{lost}; "
            f"choose others, e.g. --chat targets=every, or a smaller --chat window=N"
        )
    if counts.terminators_trained == 0:
        cut = f"{counts.targets_truncated} of {counts.targets} are cut at max_target = {settings.max_target}"
        raise BadInput(
            f"{where}: no target of the {split} split holds the control token that ends it ({cut}; {template.origin}), "
            f"so a model would never learn to stop; take a template that ends messages with one, or a larger max_target"
        )


def _write(file: BinaryIO, number: int) -> None:
    file.write(number.to_bytes(8, "little", signed=True))
