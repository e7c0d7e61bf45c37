"""Statistics of replies: what is repeated, what is an echo, and how many words are distinct."""

from __future__ import annotations

import pytest

from litmus.generation.chat.replies import TextStats

CONTEXT = [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("reply", "repetition", "echo"),
    [
        ([1, 2, 3, 4, 5], 0.0, 1.0),
        ([7, 8, 9, 10], 0.0, 0.0),
        ([7, 7, 7, 7, 7, 7], 2 / 3, 0.0),
        ([3, 4, 5, 6, 3, 4, 5, 6], 0.2, 0.4),
        ([1, 2, 3], 0.0, 0.0),
    ],
)
def test_repetition_and_echo_are_fractions_of_sequences_of_four_tokens(
    reply: list[int], repetition: float, echo: float
) -> None:
    stats = TextStats.of([CONTEXT], [reply], [""])
    assert (stats.repetition, stats.echo) == pytest.approx((repetition, echo))


def test_distinct_words_and_pairs_are_counted_over_all_replies() -> None:
    stats = TextStats.of([CONTEXT] * 2, [[1], [2]], ["a b a b", "a b"])
    assert (stats.distinct_1, stats.distinct_2, stats.mean_tokens) == (2 / 6, 2 / 4, 1)
