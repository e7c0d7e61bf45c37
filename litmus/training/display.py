"""Terminal output of a training (a progress bar, plain lines or nothing) and of an evaluation (a table)."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from litmus.training.evaluation import Evaluation

LOSS_EMA_DECAY = 0.95
"""Of the moving average of the training loss that is shown."""

LIVE_SECONDS, LINE_SECONDS = 0.5, 15.0
"""Minimum time between two refreshes of the progress bar, and between two plain lines."""

BARS = "▁▂▃▄▅▆▇█"
BARS_WIDTH = 40
"""Characters of the bar chart of the loss by position."""


@dataclass(frozen=True)
class Status:
    """A training after a step: fraction of its budget used, loss of the step, tokens and seconds in total."""

    step: int
    fraction: float
    loss: float
    tokens: int
    seconds: float


class Display:
    """Receives the events of a training and shows nothing; base class of the displays that do."""

    def begin(self, title: str, fraction: float) -> None:
        """A training starts, with this fraction of its budget already used."""

    def step(self, status: Status) -> None:
        """A step is done."""

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """The model was evaluated."""

    def sample(self, step: int, text: str) -> None:
        """The model wrote a text."""

    def log(self, text: str) -> None:
        """A message for the user."""

    def end(self) -> None:
        """The training ended, for whatever reason."""


class _ConsoleDisplay(Display, ABC):
    """Base of both displays on a console: moving average of the loss, speed and time left."""

    def __init__(self, console: Console, min_seconds: float) -> None:
        self.console = console
        self._min_seconds = min_seconds
        self._shown_at = -math.inf

    def begin(self, title: str, fraction: float) -> None:
        self._started, self._start_fraction = time.monotonic(), fraction
        self._loss: float | None = None
        self._bits: float | None = None
        self._last: tuple[int, float] | None = None
        self._speed = 0.0
        self.log(title)

    def step(self, status: Status) -> None:
        before = status.loss if self._loss is None else self._loss
        self._loss = LOSS_EMA_DECAY * before + (1 - LOSS_EMA_DECAY) * status.loss
        now = time.monotonic()
        if now - self._shown_at < self._min_seconds and status.fraction < 1:
            return
        if self._last is not None and status.seconds > self._last[1]:
            self._speed = (status.tokens - self._last[0]) / (status.seconds - self._last[1])
        self._last = status.tokens, status.seconds
        self._shown_at = now
        self.show(status)

    @abstractmethod
    def show(self, status: Status) -> None:
        """Show the metrics of a step."""

    def validated(self, step: int, evaluation: Evaluation) -> None:
        self._bits = evaluation.bits_per_byte

    def sample(self, step: int, text: str) -> None:
        self.log(f"sample at step {step}:\n{text}")

    def log(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def metrics(self, status: Status) -> str:
        """Loss, bits per byte, speed and time left, aligned from line to line."""
        bits = "  –  " if self._bits is None else f"{self._bits:.3f}"
        return (
            f"step {status.step:>6,}  loss {self._loss:.3f}  held-out bpb {bits}"
            f"  {self._speed:>8,.0f} tokens/s  {self._time_left(status.fraction)} left"
        )

    def _time_left(self, fraction: float) -> str:
        done = fraction - self._start_fraction
        if done <= 0:
            return "  ?  "
        return duration((time.monotonic() - self._started) * (1 - fraction) / done)


class LineDisplay(_ConsoleDisplay):
    """Plain lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, LINE_SECONDS)

    def show(self, status: Status) -> None:
        self.log(f"{status.fraction:>4.0%}  {self.metrics(status)}")


class LiveDisplay(_ConsoleDisplay):
    """A progress bar, with messages and samples above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, LIVE_SECONDS)
        # Refreshed by the training: a thread for it would compete with the training for the interpreter.
        self._bar = Progress(
            BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}"),
            console=console, auto_refresh=False, transient=False,
        )  # fmt: skip

    def begin(self, title: str, fraction: float) -> None:
        super().begin(title, fraction)
        self._bar.add_task("", total=1.0)
        self._task = self._bar.task_ids[0]
        self._bar.update(self._task, completed=fraction)
        self._bar.start()

    def show(self, status: Status) -> None:
        self._bar.update(self._task, completed=status.fraction, description=self.metrics(status), refresh=True)

    def end(self) -> None:
        self._bar.stop()


def display_for(console: Console) -> Display:
    """A progress bar on a terminal, plain lines elsewhere."""
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)


def duration(seconds: float) -> str:
    """Seconds as 0:42, 12:05 or 3:20:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def evaluation_table(evaluation: Evaluation) -> Table:
    """An evaluation as a table for a terminal."""
    table = two_columns()
    table.add_row("bits per byte", f"{evaluation.bits_per_byte:.4f}")
    table.add_row("nats per token", f"{evaluation.nats_per_token:.4f}")
    table.add_row("perplexity", f"{evaluation.perplexity:.2f} per token")
    table.add_row("scored", f"{evaluation.tokens:,} tokens, {evaluation.bytes:,} bytes")
    if (scores := evaluation.threads) is not None:
        table.add_row(
            "by thread",
            f"perplexity {scores.perplexity_low:.2f} to {scores.perplexity_high:.2f}, 95 % "
            f"interval over {scores.threads:,} threads",
        )
        table.add_row(
            "end of a turn",
            f"{scores.end_probability:.1%} probable where one ends ({scores.ends:,} ends), "
            f"{scores.false_end_probability:.2%} elsewhere",
        )
    losses = evaluation.loss_by_position
    table.add_row("loss by position", f"{losses[0]:.2f} {_bar_chart(losses)} {losses[-1]:.2f}")
    if entropy := evaluation.attention_entropy:
        layers = "  ".join(f"{value:.2f}" for value in entropy.values())
        table.add_row("attention entropy", f"{layers}  (nats, {_layers(entropy)})")
    for name, values in evaluation.layer_stats.items():
        layers = "  ".join(f"{value:.3g}" for value in values.values())
        table.add_row(name.replace("_", " "), f"{layers}  ({_layers(values)})")
    if routing := evaluation.routing:
        excess = "  ".join(f"{router.max_violation:+.0%}" for router in routing.values())
        dead = sum(router.dead for router in routing.values())
        table.add_row("busiest expert", f"{excess}  (over the mean load, {_layers(routing)}; {dead} experts unused)")
    return table


def two_columns() -> Table:
    """A table of names, in bold, and values."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    return table


def _layers(numbers: Iterable[int]) -> str:
    """The layers of some numbers from 0, in words that count from 1."""
    found = [number + 1 for number in numbers]
    if found == list(range(1, len(found) + 1)):
        return f"layers 1 to {len(found)}" if len(found) > 1 else "layer 1"
    return f"layer{'s' * (len(found) > 1)} {', '.join(map(str, found))}"


def _bar_chart(values: list[float]) -> str:
    """Values as a line of bars, averaged into at most BARS_WIDTH of them."""
    means = [float(part.mean()) for part in np.array_split(np.array(values), min(BARS_WIDTH, len(values)))]
    low, high = min(means), max(means)
    return "".join(BARS[round((value - low) / ((high - low) or 1.0) * (len(BARS) - 1))] for value in means)
