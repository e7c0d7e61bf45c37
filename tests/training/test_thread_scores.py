from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from litmus.data.tokens.token_files import Windows
from litmus.training.thread_scores import ThreadTally

END = 9


def tally(threads: list[int], nats: list[list[float]]) -> ThreadTally:
    """One window for each entry of `threads`, whose targets have these nats, the last being the end."""
    tokens = np.array([token for losses in nats for token in (1, *[2] * (len(losses) - 1), END)])
    starts = np.cumsum([0, *(len(losses) + 1 for losses in nats)])
    made = ThreadTally(Windows(tokens, tokens > 1, starts, np.array(threads)), {END, 8})
    for number, losses in enumerate(nats):
        targets = torch.tensor([[*[2] * (len(losses) - 1), END]])
        values = torch.tensor([losses])
        made.add(values, values, targets, targets >= 0, torch.full_like(targets, number))
    return made


def test_the_interval_is_over_threads_and_not_over_windows() -> None:
    one = tally([0, 0, 0], [[1.0, 2.0], [5.0, 1.0], [0.5, 0.25, 3.0]]).result()
    assert one.threads == 1 and one.perplexity_low == one.perplexity_high == math.exp(12.75 / 7)
    apart = [[1.0], [3.0]] * 20
    by_window, by_pair = (tally(threads, apart).result() for threads in (list(range(40)), [n // 2 for n in range(40)]))
    assert by_pair.perplexity_low == by_pair.perplexity_high == math.exp(2)
    assert by_window.perplexity_low < math.exp(2) < by_window.perplexity_high


def test_the_interval_is_about_that_of_the_mean() -> None:
    random = np.random.default_rng(0)
    drawn = random.normal(2, 0.5, 400)
    scores = tally(list(range(400)), [[float(value)] for value in drawn]).result()
    half = 1.96 * drawn.std() / 20
    assert abs(math.log(scores.perplexity_low) - (drawn.mean() - half)) < 0.01
    assert abs(math.log(scores.perplexity_high) - (drawn.mean() + half)) < 0.01


def test_the_end_is_the_control_token_that_ends_windows() -> None:
    scores = tally([0, 1], [[0.0, math.log(2)], [math.log(4), math.log(4)]])
    assert scores.end == END
    result = scores.result()
    assert result.ends == 2
    assert (result.end_probability, result.false_end_probability) == pytest.approx((0.375, 0.625))
