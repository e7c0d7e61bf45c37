"""Beam search: equal to its definition written out without a cache, and to transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from litmus.errors import BadInput
from litmus.generation import generate
from litmus.generation.engine import Request
from litmus.generation.search.beam import Hypothesis, beam_search, hypothesis_events
from litmus.model import Decoder, build

VOCABULARY, CONTEXT = 11, 16
PROMPT = [3, 1, 4]
SHAPE: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": CONTEXT, "vocab_size": VOCABULARY}


@pytest.fixture(scope="module")
def model(rough: Callable[..., Decoder]) -> Decoder:
    return rough(build("standard", **SHAPE)).eval()


def log_p(model: Decoder, text: list[int]) -> list[float]:
    with torch.no_grad():
        return model(torch.tensor([text]))[0, -1].log_softmax(-1).tolist()


def best_texts(
    model: Decoder, beams: int, limit: int, stop: set[int], penalty: float, early: bool
) -> list[tuple[list[int], float]]:
    """The definition, on lists and whole texts."""
    going: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, limit + 1):
        longer = [
            (total + step, [*text, token])
            for total, text in going
            for token, step in enumerate(log_p(model, [*PROMPT, *text]))
        ]
        longer.sort(key=lambda pair: -pair[0])
        last = length == limit
        for total, text in longer[:beams]:
            if text[-1] in stop or last:
                ended.append((total / length**penalty, text[:-1] if text[-1] in stop else text))
        ended = sorted(ended, key=lambda pair: -pair[0])[:beams]
        going = [pair for pair in longer if pair[1][-1] not in stop][:beams]
        if len(ended) == beams and (early or going[0][0] / length**penalty <= ended[-1][0]):
            break
    return [(text, score) for score, text in ended]


@settings(max_examples=25)
@given(
    beams=st.integers(1, 5),
    limit=st.integers(1, 6),
    stop=st.sets(st.integers(0, VOCABULARY - 1), max_size=3),
    penalty=st.sampled_from([-1.0, 0.0, 0.7, 1.0, 2.0]),
    early=st.booleans(),
)
def test_beam_search_equals_its_definition(
    model: Decoder, beams: int, limit: int, stop: set[int], penalty: float, early: bool
) -> None:
    request = Request(PROMPT, max_new_tokens=limit, stop=stop)
    found = beam_search(model, request, beams=beams, length_penalty=penalty, early_stopping=early)
    expected = best_texts(model, beams, limit, stop, penalty, early)
    assert [hypothesis.tokens for hypothesis in found] == [text for text, _ in expected]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in expected])


@pytest.mark.parametrize("recipe", ["mla", "window-sinks", "compressed", "worker", "mod", "ssmax-nope"])
def test_beams_are_reordered_in_the_cache_of_every_kind_of_mixer(recipe: str, rough: Callable[..., Decoder]) -> None:
    model = rough(build(recipe, **SHAPE)).eval()
    found = beam_search(model, Request(PROMPT, max_new_tokens=7), beams=3)
    assert [hypothesis.tokens for hypothesis in found] == [text for text, _ in best_texts(model, 3, 7, set(), 1, False)]


def test_one_beam_is_greedy(model: Decoder) -> None:
    found = beam_search(model, Request(PROMPT, max_new_tokens=9), beams=1)
    assert [hypothesis.tokens for hypothesis in found] == generate(model, [PROMPT], max_new_tokens=9, temperature=0)


def test_a_beam_ends_at_the_context(model: Decoder) -> None:
    found = beam_search(model, Request([1] * (CONTEXT - 2), max_new_tokens=9), beams=2)
    assert [(len(hypothesis.tokens), hypothesis.finish_reason) for hypothesis in found] == [(2, "context")] * 2


def test_hypotheses_become_token_events() -> None:
    events = list(hypothesis_events([Hypothesis([5, 6], -1.0, "stop"), Hypothesis([], -2.0, "length")]))
    assert [(event.id, event.token, event.finish_reason) for event in events] == [
        (0, 5, None),
        (0, 6, None),
        (0, None, "stop"),
        (1, None, "length"),
    ]


def test_beam_search_agrees_with_transformers(tmp_path: Path, rough: Callable[..., Decoder]) -> None:
    import transformers

    from litmus.interop import export_model

    model = rough(build("standard", **{**SHAPE, "vocab_size": 40, "context": 48}), torch.float32).eval()
    export_model(model, None, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for beams, penalty, early, stop in ((3, 1.0, False, 7), (4, 2.0, True, 7), (2, 0.0, False, 9), (5, -1.0, False, 3)):
        whole = theirs.generate(
            torch.tensor([PROMPT]),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=stop,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=penalty,
            early_stopping=early,
        )
        expected = [row[: row.index(stop)] if stop in row else row for row in whole[:, len(PROMPT) :].tolist()]
        request = Request(PROMPT, max_new_tokens=12, stop=[stop])
        found = beam_search(model, request, beams=beams, length_penalty=penalty, early_stopping=early)
        assert [hypothesis.tokens for hypothesis in found] == expected


def test_a_search_without_beams_is_refused(model: Decoder) -> None:
    with pytest.raises(BadInput, match="beams = 0"):
        beam_search(model, Request(PROMPT), beams=0)
    with pytest.raises(BadInput, match="prompt 0 is empty"):
        beam_search(model, Request([]))
