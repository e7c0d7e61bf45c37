"""Each filter against a definition that looks at one row at a time, in batches of rows with settings of their own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from litmus.generation.logits_processors import TokenHistory
from litmus.generation.sampling import BatchSampling, Sampling, next_tokens, probabilities

VOCABULARY = 7
# Few values, so that ties are common; -inf marks a token that can never be drawn.
score = st.one_of(st.sampled_from([-math.inf, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), st.floats(-9, 9, width=16))
row = st.lists(score, min_size=VOCABULARY, max_size=VOCABULARY).filter(lambda row: max(row) > -math.inf)
text = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9)


def drawn_rows(setting: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[list[float], list[int], int, Any]]]:
    """Rows of (scores, tokens so far, how many of them were given, setting)."""
    rows = st.tuples(row, text, st.integers(1, 9), setting)
    return st.lists(rows.map(lambda r: (r[0], r[1], min(r[2], len(r[1])), r[3])), min_size=1, max_size=4)


def history_of(rows: list[tuple[list[float], list[int], int, Any]]) -> TokenHistory:
    history = TokenHistory(len(rows), 10, torch.device("cpu"))
    for place, (_, tokens, given_tokens, _) in enumerate(rows):
        history.set_row(place, tokens[:given_tokens])
    for column in range(10):
        late = [r[1][r[2] + column] if r[2] + column < len(r[1]) else 0 for r in rows]
        real = [r[2] + column < len(r[1]) for r in rows]
        history.append(torch.tensor(late), torch.tensor(real))
    return history


def check(
    rows: list[tuple[list[float], list[int], int, Any]],
    sampling: Callable[[Any], Sampling],
    definition: Callable[[list[float], list[int], int, Any], list[float]],
    stops: list[list[int]] | None = None,
) -> None:
    """The batch's processed scores are those that the definition gives for each row."""
    logits = torch.tensor([r[0] for r in rows], dtype=torch.float64)
    settings = BatchSampling([sampling(r[3]) for r in rows], VOCABULARY, stops=stops)
    found = settings.penalized(logits, history_of(rows)).tolist()
    for scores, (plain, tokens, given_tokens, setting) in zip(found, rows, strict=True):
        expected = definition(plain, tokens, given_tokens, setting)
        assert scores == pytest.approx(plain if max(expected) == -math.inf else expected)


@given(drawn_rows(st.sampled_from([1.0, 0.5, 1.3, 4.0])))
def test_repetition_divides_positive_and_multiplies_negative_scores_of_all_tokens_so_far(rows: Any) -> None:
    def definition(scores: list[float], tokens: list[int], _: int, penalty: float) -> list[float]:
        return [s if i not in tokens else s / penalty if s > 0 else s * penalty for i, s in enumerate(scores)]

    check(rows, lambda penalty: Sampling(repetition_penalty=penalty), definition)


@given(drawn_rows(st.tuples(st.sampled_from([0.0, 0.7, -1.0]), st.sampled_from([0.0, 0.2, 2.0]))))
def test_presence_counts_once_and_frequency_each_time_what_was_generated(rows: Any) -> None:
    def definition(scores: list[float], tokens: list[int], prompt: int, penalties: Any) -> list[float]:
        counts = Counter(tokens[prompt:])
        return [s - (counts[i] > 0) * penalties[0] - counts[i] * penalties[1] for i, s in enumerate(scores)]

    check(rows, lambda both: Sampling(presence_penalty=both[0], frequency_penalty=both[1]), definition)


@given(drawn_rows(st.sampled_from([None, 1, 2, 3, 12])))
def test_no_ngram_occurs_twice(rows: Any) -> None:
    def definition(scores: list[float], tokens: list[int], _: int, size: int | None) -> list[float]:
        if size is None:
            return scores
        before = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
        tail = tokens[len(tokens) - size + 1 :] if size > 1 else []
        return [-math.inf if (*tail, i) in before else s for i, s in enumerate(scores)]

    check(rows, lambda size: Sampling(no_repeat_ngram=size), definition)


words = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3), max_size=4)


@given(drawn_rows(words))
def test_the_last_token_of_a_bad_word_is_forbidden_after_its_others(rows: Any) -> None:
    def definition(scores: list[float], tokens: list[int], _: int, bad: list[list[int]]) -> list[float]:
        last = {word[-1] for word in bad if len(word) == 1 or tokens[-len(word) + 1 :] == word[:-1]}
        return [-math.inf if i in last else s for i, s in enumerate(scores)]

    check(rows, lambda bad: Sampling(bad_words=bad), definition)


def test_a_bad_word_longer_than_the_text_does_not_match_the_text_twice() -> None:
    scores = [0.0] * VOCABULARY
    found = BatchSampling([Sampling(bad_words=[(4, 4, 1)])], VOCABULARY).penalized(
        torch.tensor([scores]), history_of([(scores, [4], 1, None)])
    )
    assert found.tolist() == [scores]


@given(drawn_rows(st.tuples(st.integers(0, 5), st.sets(st.integers(0, VOCABULARY - 1), max_size=3))))
def test_no_stop_token_before_the_least_number_of_tokens(rows: Any) -> None:
    def definition(scores: list[float], tokens: list[int], prompt: int, both: Any) -> list[float]:
        early = len(tokens) - prompt < both[0]
        return [-math.inf if early and i in both[1] else s for i, s in enumerate(scores)]

    stops = [list(r[3][1]) for r in rows]
    check(rows, lambda both: Sampling(min_new_tokens=both[0]), definition, stops)


@given(drawn_rows(st.dictionaries(st.integers(0, VOCABULARY - 1), st.floats(-50, 50))))
def test_a_bias_is_added(rows: Any) -> None:
    def definition(scores: list[float], _: list[int], __: int, bias: dict[int, float]) -> list[float]:
        return [s + bias.get(i, 0) for i, s in enumerate(scores)]

    logits = torch.tensor([r[0] for r in rows], dtype=torch.float64)
    found = BatchSampling([Sampling(logit_bias=r[3]) for r in rows], VOCABULARY).penalized(logits, None)
    for scores, r in zip(found.tolist(), rows, strict=True):
        assert scores == pytest.approx(definition(*r), abs=1e-5)


def softmax(scores: list[float]) -> list[float]:
    weights = [math.exp(s - max(scores)) for s in scores]
    return [weight / sum(weights) for weight in weights]


def kept(rows: list[list[float]], settings: list[Sampling]) -> list[set[int]]:
    p = probabilities(torch.tensor(rows, dtype=torch.float64), BatchSampling(settings, VOCABULARY))
    assert p.sum(-1).tolist() == pytest.approx([1] * len(rows))
    return [{i for i, share in enumerate(row) if share > 0} for row in p.tolist()]


batch = st.lists(st.tuples(row, st.floats(0.01, 1)), min_size=1, max_size=4)


@given(batch)
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(rows: Any) -> None:
    found = kept([r[0] for r in rows], [Sampling(temperature=1, min_p=r[1]) for r in rows])
    for tokens, (scores, share) in zip(found, rows, strict=True):
        ratios = [math.exp(s - max(scores)) for s in scores]
        assume(all(abs(ratio / share - 1) > 1e-9 for ratio in ratios if ratio < 1))
        assert tokens == {i for i, ratio in enumerate(ratios) if ratio >= share and ratio > 0}


@given(batch)
def test_typical_keeps_the_least_surprising_surprises_that_have_the_mass(rows: Any) -> None:
    found = kept([r[0] for r in rows], [Sampling(temperature=1, typical_p=r[1]) for r in rows])
    for tokens, (scores, mass) in zip(found, rows, strict=True):
        p = softmax(scores)
        entropy = -sum(share * math.log(share) for share in p if share > 0)
        distance = [abs(-math.log(share) - entropy) if share > 0 else math.inf for share in p]
        order = sorted(range(VOCABULARY), key=lambda i: distance[i])
        sums = [sum(p[i] for i in order[: n + 1]) for n in range(VOCABULARY)]
        assume(mass == 1 or all(abs(total - mass) > 1e-9 for total in sums))
        number = next((n for n, total in enumerate(sums) if total >= mass), VOCABULARY - 1)
        limit = distance[order[number]] if mass < 1 else math.inf
        assert tokens >= {i for i in order if distance[i] < limit - 1e-9 and p[i] > 0}
        assert tokens <= {i for i in order if distance[i] <= limit + 1e-9 and p[i] > 0}


def test_filters_compose_row_by_row_as_alone() -> None:
    different = [
        Sampling(temperature=0.0),
        Sampling(temperature=1.3, top_k=3),
        Sampling(temperature=0.5, top_p=0.6, min_p=0.1),
        Sampling(temperature=1.0, typical_p=0.5, top_k=100),
        Sampling(temperature=1.0, repetition_penalty=1.5, no_repeat_ngram=2, bad_words=[(1,), (2, 3)]),
        Sampling(temperature=0.0, frequency_penalty=3.0, logit_bias={2: 9.0}, min_new_tokens=9),
    ]
    rows = [(torch.randn(VOCABULARY).tolist(), [1, 2, 1, 2, 2][: 1 + n % 5], 1, None) for n in range(len(different))]
    logits, uniform = torch.tensor([r[0] for r in rows]), torch.rand(len(rows), dtype=torch.float64)
    stops = [[0]] * len(rows)
    together = next_tokens(logits, BatchSampling(different, VOCABULARY, stops=stops), uniform, history_of(rows))
    for n, sampling in enumerate(different):
        one = slice(n, n + 1)
        settings = BatchSampling([sampling], VOCABULARY, stops=stops[:1])
        assert next_tokens(logits[one], settings, uniform[one], history_of(rows[one])) == together[n]
        p = probabilities(logits[one], settings, history_of(rows[one]))
        assert p[0, together[n]] > 0


def test_a_row_whose_every_token_is_forbidden_goes_on_without_the_bans() -> None:
    sampling = Sampling(temperature=1, bad_words=[(token,) for token in range(VOCABULARY)])
    logits = torch.randn(1, VOCABULARY)
    p = probabilities(logits, sampling, history_of([([], [0], 1, None)]))
    torch.testing.assert_close(p, logits.double().softmax(-1))


def test_settings_that_filter_nothing_build_nothing() -> None:
    off = Sampling(temperature=1, top_k=VOCABULARY, top_p=1, min_p=0, typical_p=1)
    settings = BatchSampling([off, None, Sampling(temperature=1)], VOCABULARY, stops=[(1,), (), ()])
    assert not any(isinstance(value, Tensor) for value in vars(settings).values())
    assert not settings.needs_history and not settings.ngrams
    logits = torch.randn(3, VOCABULARY)
    assert settings.penalized(logits, None) is logits


@pytest.mark.parametrize(
    "options",
    [
        {"min_p": 0.2},
        {"typical_p": 0.7},
        {"repetition_penalty": 2.0, "top_p": 0.9},
        {"frequency_penalty": 0.5, "top_k": 4, "logit_bias": {4: 1.0}},
    ],
)
def test_sample_frequencies_match_the_truncated_probabilities(options: dict[str, Any]) -> None:
    draws = 4000
    scores, sampling = [0.3, -1.0, 2.0, -math.inf, 1.0, 1.0, -0.5], Sampling(temperature=1.2, **options)
    history = history_of([(scores, [2, 1, 2, 4], 1, None)] * draws)
    logits = torch.tensor([scores], dtype=torch.float64).expand(draws, -1)
    tokens = next_tokens(logits, sampling, torch.rand(draws, dtype=torch.float64), history)
    counts, p = torch.bincount(tokens, minlength=VOCABULARY), probabilities(logits, sampling, history)[0]
    assert (counts[p == 0] == 0).all()
    assert stats.chisquare(counts[p > 0], (p[p > 0] * draws).numpy()).pvalue > 1e-3
