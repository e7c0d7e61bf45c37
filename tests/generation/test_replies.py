"""Statistics of replies: what is repeated, what is an echo, and how many words are distinct."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmus.errors import BadInput
from litmus.generation.chat.replies import TextStats, read_word_list

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


def test_toxic_words_are_counted_as_whole_words_in_any_case(tmp_path: Path) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text("damn\n\nshut  up\nC++\n", encoding="utf-8")
    words = read_word_list(listed)
    texts = ["Damn!", "oh, SHUT\nUP now", "I write C++.", "damned", "shut it up", ""]
    assert [bool(words.search(text)) for text in texts] == [True, True, True, False, False, False]
    assert TextStats.of([CONTEXT] * 6, [[1]] * 6, texts, words).toxic == 0.5
    assert TextStats.of([CONTEXT] * 6, [[1]] * 6, texts).toxic is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file"),
        (b" \n", "holds no words"),
        (b"\xff\xfea", "cannot be read: it is not UTF-8"),
    ],
)
def test_a_word_list_that_is_none_is_refused(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(BadInput, match=sentence):
        read_word_list(tmp_path / "words.txt")
