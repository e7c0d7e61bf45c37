"""What a person sees of a training: a live view on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from litmus.training.evaluation import Evaluation

SMOOTHING = 0.95
LIVE_SECONDS, LINE_SECONDS = 0.5, 15.0
"""Least time between two refreshes of the live view, and between two plain lines."""


@dataclass(frozen=True)
class Status:
    """Where a training stands after a step; `tokens` and `seconds` are those of the whole training so far."""

    step: int
    share: float
    loss: float
    tokens: int
    seconds: float


class Display:
    """Shows nothing; the base of the displays that do."""

    def begin(self, title: str, share: float) -> None:
        """A training named `title` starts with `share` of its budget already spent."""

    def step(self, status: Status) -> None:
        """A step was done."""

    def held_out(self, step: int, evaluation: Evaluation) -> None:
        """The model was scored."""

    def sample(self, step: int, text: str) -> None:
        """The model wrote a text."""

    def note(self, text: str) -> None:
        """Something the person should know."""

    def end(self) -> None:
        """The training is over, for whatever reason."""


class _Shown(Display, ABC):
    """What both displays share: a smoothed loss, the speed, the time left, and a console to say things on."""

    def __init__(self, console: Console, pause: float) -> None:
        self.console = console
        self._pause = pause
        self._shown_at = -math.inf

    def begin(self, title: str, share: float) -> None:
        self._began, self._share_at_begin = time.monotonic(), share
        self._loss: float | None = None
        self._bits: float | None = None
        self._last: tuple[int, float] | None = None
        self._speed = 0.0
        self.note(title)

    def step(self, status: Status) -> None:
        self._loss = status.loss if self._loss is None else SMOOTHING * self._loss + (1 - SMOOTHING) * status.loss
        now = time.monotonic()
        if now - self._shown_at < self._pause and status.share < 1:
            return
        if self._last is not None and status.seconds > self._last[1]:
            self._speed = (status.tokens - self._last[0]) / (status.seconds - self._last[1])
        self._last = status.tokens, status.seconds
        self._shown_at = now
        self.show(status)

    @abstractmethod
    def show(self, status: Status) -> None:
        """Put the figures of a step before the person."""

    def held_out(self, step: int, evaluation: Evaluation) -> None:
        self._bits = evaluation.bits_per_byte

    def sample(self, step: int, text: str) -> None:
        self.note(f"sample at step {step}:\n{text}")

    def note(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def figures(self, status: Status) -> str:
        """Loss, bits per byte, speed and time left, in words that align from line to line."""
        bits = "  –  " if self._bits is None else f"{self._bits:.3f}"
        return (
            f"step {status.step:>6,}  loss {self._loss:.3f}  held-out bpb {bits}"
            f"  {self._speed:>8,.0f} tokens/s  {self._left(status.share)} left"
        )

    def _left(self, share: float) -> str:
        done = share - self._share_at_begin
        if done <= 0:
            return "  ?  "
        return duration((time.monotonic() - self._began) * (1 - share) / done)


class LineDisplay(_Shown):
    """Plain lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, LINE_SECONDS)

    def show(self, status: Status) -> None:
        self.note(f"{status.share:>4.0%}  {self.figures(status)}")


class LiveDisplay(_Shown):
    """A progress bar that stays in place, with notes and samples above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, LIVE_SECONDS)
        # Refreshed by the training itself: a thread of its own would take turns with the interpreter all the time.
        self._bar = Progress(
            BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}"),
            console=console, auto_refresh=False, transient=False,
        )  # fmt: skip

    def begin(self, title: str, share: float) -> None:
        super().begin(title, share)
        self._bar.add_task("", total=1.0)
        self._task = self._bar.task_ids[0]
        self._bar.update(self._task, completed=share)
        self._bar.start()

    def show(self, status: Status) -> None:
        self._bar.update(self._task, completed=status.share, description=self.figures(status), refresh=True)

    def end(self) -> None:
        self._bar.stop()


def display_for(console: Console) -> Display:
    """The live view on a terminal, plain lines anywhere else."""
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)


def duration(seconds: float) -> str:
    """Seconds as 0:42, 12:05 or 3:20:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
