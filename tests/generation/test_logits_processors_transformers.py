"""Each filter against the processor of transformers that has the same name."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from litmus.generation.logits_processors import TokenHistory
from litmus.generation.sampling import BatchSampling, Sampling

VOCABULARY = 8
# Multiples of 1/8, so that temperature and sums are exact and ties are ties in both libraries.
score = st.one_of(st.just(-torch.inf), st.integers(-40, 40).map(lambda n: n / 8))
rows = st.integers(1, 3).flatmap(
    lambda batch: st.lists(
        st.lists(score, min_size=VOCABULARY, max_size=VOCABULARY).filter(lambda row: max(row) > -torch.inf),
        min_size=batch,
        max_size=batch,
    )
)
token = st.integers(0, VOCABULARY - 1)


def warped(logits: list[list[float]], **setting: Any) -> tuple[Tensor, Tensor]:
    """Scores in fp64, and the distribution that is left of them at temperature 1 unless told otherwise."""
    scores = torch.tensor(logits, dtype=torch.float64)
    settings = BatchSampling([Sampling(**{"temperature": 1, **setting})] * len(logits), VOCABULARY)
    return scores, settings.truncated(scores)


def adjusted(logits: list[list[float]], tokens: list[int], prompt: int, stop: Any = (), **setting: Any) -> Tensor:
    """Scores after the filters that look back on `tokens`, the first `prompt` of which were given."""
    history = TokenHistory(len(logits), 12, torch.device("cpu"))
    for place in range(len(logits)):
        history.set_row(place, tokens, len(tokens) - prompt)
    settings = BatchSampling([Sampling(**setting)] * len(logits), VOCABULARY, stops=[stop] * len(logits))
    return settings.penalized(torch.tensor(logits, dtype=torch.float64), history)


def ids(tokens: list[int], logits: list[list[float]]) -> Tensor:
    return torch.tensor([tokens] * len(logits))


@given(rows, st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_temperature(logits: Any, temperature: float) -> None:
    scores, p = warped(logits, temperature=temperature)
    theirs = transformers.TemperatureLogitsWarper(temperature)(None, scores)
    torch.testing.assert_close(p, theirs.softmax(-1))


@given(rows, st.integers(1, VOCABULARY + 3))
def test_top_k(logits: Any, k: int) -> None:
    scores, p = warped(logits, top_k=k)
    torch.testing.assert_close(p, transformers.TopKLogitsWarper(k)(None, scores).softmax(-1))


@given(rows, st.floats(0.01, 1))
def test_top_p(logits: Any, mass: float) -> None:
    scores, p = warped(logits, top_p=mass)
    sums = scores.softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    assume(mass == 1 or bool(((sums - mass).abs() > 1e-9).all()))
    theirs = transformers.TopPLogitsWarper(mass)(None, scores).softmax(-1)
    # Which of several equally likely tokens fills the set is left open; how many do is not.
    torch.testing.assert_close(p.sort(-1).values, theirs.sort(-1).values)


@given(rows, st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.9, 1.0]))
def test_min_p(logits: Any, share: float) -> None:
    scores, p = warped(logits, min_p=share)
    torch.testing.assert_close(p, transformers.MinPLogitsWarper(share)(None, scores).softmax(-1))


@given(rows, st.floats(0.01, 0.99))
def test_typical(logits: Any, mass: float) -> None:
    scores, p = warped(logits, typical_p=mass)
    theirs = transformers.TypicalLogitsWarper(mass)(None, scores).softmax(-1)
    logp = scores.log_softmax(-1)
    distance = (-(logp.exp() * logp).nansum(-1, keepdim=True) - logp).abs()
    distance, order = distance.sort(-1)
    sums = logp.exp().gather(1, order).cumsum(-1)
    apart = distance.diff(dim=-1)
    assume(bool(((sums - mass).abs() > 1e-9).all() and ((apart == 0) | (apart.nan_to_num(1.0) > 1e-9)).all()))
    torch.testing.assert_close(p, theirs)


@given(rows, st.lists(token, min_size=1, max_size=9), st.sampled_from([0.5, 1.25, 2.0]))
def test_repetition_penalty(logits: Any, tokens: list[int], penalty: float) -> None:
    found = adjusted(logits, tokens, 1, repetition_penalty=penalty)
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    theirs = processor(ids(tokens, logits), torch.tensor(logits, dtype=torch.float64))
    torch.testing.assert_close(found, theirs)


@given(rows, st.lists(token, min_size=1, max_size=9), st.integers(1, 4))
def test_no_repeat_ngram(logits: Any, tokens: list[int], size: int) -> None:
    found = adjusted(logits, tokens, 1, no_repeat_ngram=size)
    processor = transformers.NoRepeatNGramLogitsProcessor(size)
    theirs = processor(ids(tokens, logits), torch.tensor(logits, dtype=torch.float64))
    assume(bool((theirs > -torch.inf).any(-1).all()))
    torch.testing.assert_close(found, theirs)


@given(
    rows,
    st.lists(token, min_size=1, max_size=9),
    st.lists(st.lists(token, min_size=1, max_size=3), min_size=1, max_size=4, unique_by=tuple),
)
def test_bad_words(logits: Any, tokens: list[int], words: list[list[int]]) -> None:
    found = adjusted(logits, tokens, 1, bad_words=words)
    processor = transformers.NoBadWordsLogitsProcessor(words)
    theirs = processor(ids(tokens, logits), torch.tensor(logits, dtype=torch.float64))
    assume(bool((theirs > -torch.inf).any(-1).all()))
    torch.testing.assert_close(found, theirs)


@given(rows, st.lists(token, min_size=2, max_size=9), st.integers(0, 8), st.sets(token, min_size=1, max_size=3))
def test_min_new_tokens(logits: Any, tokens: list[int], least: int, stops: set[int]) -> None:
    found = adjusted(logits, tokens, 2, stop=stops, min_new_tokens=least)
    processor = transformers.MinNewTokensLengthLogitsProcessor(2, least, list(stops), device="cpu")
    theirs = processor(ids(tokens, logits), torch.tensor(logits, dtype=torch.float64))
    assume(bool((theirs > -torch.inf).any(-1).all()))
    torch.testing.assert_close(found, theirs)


@given(rows, st.dictionaries(token, st.integers(-8, 8).map(float), min_size=1))
def test_logit_bias(logits: Any, bias: dict[int, float]) -> None:
    found = adjusted(logits, [0], 1, logit_bias=bias)
    processor = transformers.SequenceBiasLogitsProcessor({(token,): amount for token, amount in bias.items()})
    torch.testing.assert_close(found, processor(ids([0], logits), torch.tensor(logits, dtype=torch.float64)))
