"""Contrastive search: equal to its definition written out without a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.generation import generate
from litmus.generation.engine import Request
from litmus.generation.search.contrastive import contrastive_search
from litmus.model import Decoder, build

VOCABULARY, CONTEXT = 11, 16
PROMPT = [3, 1, 4]
SHAPE: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": CONTEXT, "vocab_size": VOCABULARY}


@pytest.fixture(scope="module")
def model(rough: Callable[..., Decoder]) -> Decoder:
    return rough(build("standard", **SHAPE)).eval()


def contrasted(model: Decoder, alpha: float, candidates: int, limit: int) -> list[int]:
    """The definition: every candidate is appended to the whole text."""
    text = list(PROMPT)
    with torch.no_grad():
        for _ in range(limit):
            p = model(torch.tensor([text]))[0, -1].softmax(-1)
            values = {}
            for token in p.topk(candidates).indices.tolist():
                hidden = model.hidden(torch.tensor([[*text, token]]))[0]
                alike = max(float(F.cosine_similarity(hidden[-1], one, dim=0)) for one in hidden[:-1])
                values[token] = (1 - alpha) * float(p[token]) - alpha * alike
            text.append(max(values, key=lambda token: values[token]))
    return text[len(PROMPT) :]


def found_by_contrast(model: Decoder, alpha: float, candidates: int, **request: Any) -> list[int | None]:
    events = contrastive_search(model, Request(PROMPT, **request), alpha=alpha, candidates=candidates)
    return [event.token for event in events]


@settings(max_examples=10)
@given(alpha=st.sampled_from([0.0, 0.3, 0.6, 1.0]), candidates=st.integers(1, VOCABULARY))
def test_contrastive_search_equals_its_definition(model: Decoder, alpha: float, candidates: int) -> None:
    assert found_by_contrast(model, alpha, candidates, max_new_tokens=6) == contrasted(model, alpha, candidates, 6)


@pytest.mark.parametrize("recipe", ["window-sinks", "worker", "deepseek"])
def test_contrastive_search_works_with_every_kind_of_cache(recipe: str, rough: Callable[..., Decoder]) -> None:
    model = rough(build(recipe, **SHAPE)).eval()
    assert found_by_contrast(model, 0.6, 4, max_new_tokens=6) == contrasted(model, 0.6, 4, 6)


def test_contrastive_search_without_a_penalty_is_greedy(model: Decoder) -> None:
    found = found_by_contrast(model, 0.0, 5, max_new_tokens=9)
    assert [found] == generate(model, [PROMPT], max_new_tokens=9, temperature=0)


def test_contrastive_search_stops_at_a_stop_token_and_says_why(model: Decoder) -> None:
    whole = found_by_contrast(model, 0.6, 4, max_new_tokens=8)
    stop = whole[4]
    assert isinstance(stop, int)
    events = list(contrastive_search(model, Request(PROMPT, max_new_tokens=8, stop=[stop])))
    assert [event.token for event in events] == [*whole[: whole.index(stop)], None]
    assert events[-1].finish_reason == "stop"


@pytest.mark.parametrize(("alpha", "candidates"), [(1.5, 4), (-0.1, 4), (0.5, 0)])
def test_what_is_no_share_or_no_candidate_is_refused(model: Decoder, alpha: float, candidates: int) -> None:
    with pytest.raises(BadInput, match=r"alpha = |0 candidates"):
        found_by_contrast(model, alpha, candidates)
