"""From logits to the next token, against definitions that look at one row at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from litmus.generation.sampling import Sampling, next_tokens, probabilities

# Few values, so that ties are common; -inf marks a token that can never be drawn.
scores = st.sampled_from([-math.inf, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
rows = st.lists(st.one_of(scores, st.floats(-20, 20)), min_size=1, max_size=12).filter(lambda row: max(row) > -math.inf)


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(score - max(row)) for score in row]
    return [weight / sum(weights) for weight in weights]


def top_k_by_definition(row: list[float], k: int) -> set[int]:
    """Every token that fewer than k others beat: tokens tied with the k-th stay."""
    return {i for i, score in enumerate(row) if sum(other > score for other in row) < k and score > -math.inf}


def drawn_from(row: list[float], sampling: Sampling, draws: int = 4000) -> Tensor:
    """How often each token of one row is drawn."""
    uniform = torch.rand(draws, dtype=torch.float64)
    tokens = next_tokens(torch.tensor(row, dtype=torch.float64).expand(draws, -1), sampling, uniform)
    return torch.bincount(tokens, minlength=len(row))


@given(row=rows, temperature=st.floats(0.05, 10))
def test_temperature_divides_the_logits(row: list[float], temperature: float) -> None:
    p = probabilities(torch.tensor([row]), Sampling(temperature=temperature))[0]
    single = torch.tensor(row).tolist()
    assert p.tolist() == pytest.approx(softmax([score / temperature for score in single]), abs=1e-12)
    assert p.dtype == torch.float64


@given(row=rows, k=st.integers(1, 15))
def test_top_k_keeps_the_k_likeliest_and_their_ties(row: list[float], k: int) -> None:
    p = probabilities(torch.tensor([row], dtype=torch.float64), Sampling(temperature=1, top_k=k))[0].tolist()
    kept = top_k_by_definition(row, k)
    assert p == pytest.approx(softmax([score if i in kept else -math.inf for i, score in enumerate(row)]), abs=1e-12)


@given(row=rows, mass=st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_of_likeliest_tokens_with_the_mass(row: list[float], mass: float) -> None:
    p = probabilities(torch.tensor([row], dtype=torch.float64), Sampling(temperature=1, top_p=mass))[0].tolist()
    before = softmax(row)
    kept = [i for i in range(len(row)) if p[i] > 0]
    assert sum(p) == pytest.approx(1)
    total = sum(before[i] for i in kept)
    assert p == pytest.approx([before[i] / total if i in kept else 0 for i in range(len(row))], abs=1e-12)
    assert total >= mass - 1e-9
    assert total - min(before[i] for i in kept) < mass + 1e-9
    assert min(before[i] for i in kept) >= max((before[i] for i in range(len(row)) if i not in kept), default=0) - 1e-15


@given(row=rows, k=st.integers(1, 5), mass=st.floats(0.05, 1), temperature=st.floats(0.2, 3))
def test_top_p_sees_what_temperature_and_top_k_left(row: list[float], k: int, mass: float, temperature: float) -> None:
    logits = torch.tensor([row], dtype=torch.float64)
    both = probabilities(logits, Sampling(temperature=temperature, top_k=k, top_p=mass))
    after_top_k = probabilities(logits, Sampling(temperature=temperature, top_k=k)).log()
    torch.testing.assert_close(both, probabilities(after_top_k, Sampling(temperature=1, top_p=mass)))


def test_the_first_of_equals_fills_the_nucleus() -> None:
    p = probabilities(torch.zeros(1, 4), Sampling(temperature=1, top_p=0.5))
    assert p.tolist() == [[0.5, 0.5, 0, 0]]


def test_filters_that_filter_nothing_change_nothing() -> None:
    logits = torch.randn(5, 7)
    plain = probabilities(logits, Sampling(temperature=1))
    for options in ({"top_k": 7}, {"top_k": 100}, {"top_p": 1}):
        assert torch.equal(probabilities(logits, Sampling(temperature=1, **options)), plain)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.7}, {"top_k": 4, "top_p": 0.6}])
def test_a_row_is_filtered_by_itself(options: dict[str, float]) -> None:
    logits, uniform = torch.randn(20, 9), torch.rand(20)
    sampling = Sampling(temperature=0.7, **options)
    together = next_tokens(logits, sampling, uniform)
    apart = [int(next_tokens(logits[row, None], sampling, uniform[row, None])) for row in range(20)]
    assert together.tolist() == apart


@given(row=rows)
def test_temperature_0_is_greedy_for_every_random_number(row: list[float]) -> None:
    tokens = next_tokens(torch.tensor([row] * 3), Sampling(temperature=0), torch.tensor([0.0, 0.5, 0.999]))
    assert tokens.tolist() == [max(range(len(row)), key=lambda i: torch.tensor(row)[i].item())] * 3


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.8}, {"top_k": 5, "top_p": 0.9}])
def test_sample_frequencies_match_the_probabilities(options: dict[str, float]) -> None:
    row = [0.3, -1.0, 2.0, -math.inf, 1.0, 1.0, -0.5]
    sampling = Sampling(temperature=1.3, **options)
    p = probabilities(torch.tensor([row], dtype=torch.float64), sampling)[0]
    counts = drawn_from(row, sampling)
    assert (counts[p == 0] == 0).all()
    possible = p > 0
    assert stats.chisquare(counts[possible], (p[possible] * counts.sum()).numpy()).pvalue > 1e-3


@given(row=rows, uniform=st.floats(0, 1, exclude_max=True), k=st.none() | st.integers(1, 5), mass=st.floats(0.05, 1))
def test_a_token_of_probability_0_is_never_sampled(
    row: list[float], uniform: float, k: int | None, mass: float
) -> None:
    sampling = Sampling(temperature=1, top_k=k, top_p=mass)
    logits = torch.tensor([row], dtype=torch.float64)
    token = int(next_tokens(logits, sampling, torch.tensor([uniform], dtype=torch.float64)))
    assert probabilities(logits, sampling)[0, token] > 0


def test_rounding_in_the_sum_never_draws_past_the_last_possible_token() -> None:
    logits = torch.randn(1000, 60)
    logits[:, 50:] = -math.inf
    sampling = Sampling(temperature=1)
    almost = 1 - 2**-53
    assert (probabilities(logits, sampling).cumsum(-1)[:, -1] <= almost).any()
    tokens = next_tokens(logits, sampling, torch.full((1000,), almost, dtype=torch.float64))
    assert tokens.max() < 50


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_possible_token(uniform: float) -> None:
    row = torch.tensor([[-math.inf, 0.1, 0.2, 0.3, -math.inf]])
    token = int(next_tokens(row, Sampling(temperature=1), torch.tensor([uniform], dtype=torch.float64)))
    assert token == (1 if uniform == 0 else 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"top_k": 0},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": 1.5},
        {"min_p": 1.5},
        {"typical_p": 0},
        {"repetition_penalty": 0},
        {"no_repeat_ngram": 0},
        {"bad_words": [[]]},
        {"typical": 0.5},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sampling(**wrong)
