"""Scores on threads: the interval of the perplexity, by thread, and how well a model knows where a turn ends."""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from litmus.data.tokens.token_files import Windows

RESAMPLES = 1000
RUNNING_POINTS = 20
"""Numbers of threads at which the running perplexity is kept."""
CONFIDENCE = 0.95


class ThreadScores(BaseModel):
    """What an evaluation on threads says besides its mean over all target tokens.

    perplexity_low, perplexity_high: 95 % interval, by resampling threads. end_probability: mean probability of the
    control token that ends a turn, where a turn ends; false_end_probability: at the other target tokens. ends: their
    number, without those of truncated targets. running: the perplexity of the first n threads, by n.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: int
    perplexity_low: float
    perplexity_high: float
    ends: int
    end_probability: float
    false_end_probability: float
    running: dict[int, float] = {}


class ThreadTally:
    """Adds up the scores of windows by thread."""

    def __init__(self, windows: Windows, special: set[int]) -> None:
        last = np.asarray(windows.tokens)[np.asarray(windows.starts[1:]) - 1]
        control = last[np.isin(last, list(special))]
        self.end = int(np.bincount(control).argmax())
        """The control token that ends most windows."""
        self._names, self._thread_of = np.unique(windows.threads, return_inverse=True)
        self._nats, self._tokens = np.zeros(len(self._names)), np.zeros(len(self._names))
        self._ends = self._others = 0
        self._end_probability = self._false_end_probability = 0.0

    def add(self, losses: Tensor, end_losses: Tensor, targets: Tensor, is_scored: Tensor, owners: Tensor) -> None:
        """Add rows (B, T): losses of the targets, and of `end` in their place, in nats; the window of each token."""
        threads = self._thread_of[owners[is_scored].numpy()]
        nats, end_nats = losses[is_scored].double(), end_losses[is_scored].double()
        np.add.at(self._nats, threads, nats.numpy())
        np.add.at(self._tokens, threads, 1)
        ends = targets[is_scored] == self.end
        self._ends += int(ends.sum())
        self._others += int((~ends).sum())
        self._end_probability += float((-end_nats[ends]).exp().sum())
        self._false_end_probability += float((-end_nats[~ends]).exp().sum())

    def result(self) -> ThreadScores:
        """The scores; the resampling is the same for every model."""
        scored = np.flatnonzero(self._tokens)
        random = np.random.Generator(np.random.Philox(key=[0, 0]))
        means = []
        for _ in range(RESAMPLES):
            drawn = random.choice(scored, len(scored))
            means.append(self._nats[drawn].sum() / self._tokens[drawn].sum())
        counts = np.unique(np.linspace(1, len(scored), RUNNING_POINTS).round().astype(int))
        running = self._nats[scored].cumsum() / self._tokens[scored].cumsum()
        low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return ThreadScores(
            threads=len(scored),
            perplexity_low=math.exp(min(low, 700.0)),
            perplexity_high=math.exp(min(high, 700.0)),
            ends=self._ends,
            end_probability=self._end_probability / max(self._ends, 1),
            false_end_probability=self._false_end_probability / max(self._others, 1),
            running={int(n): math.exp(min(float(running[n - 1]), 700.0)) for n in counts},
        )
