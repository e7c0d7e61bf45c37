"""Speculative decoding: the text of decoding token by token, or of its distribution, whatever drafts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch

from litmus.errors import BadInput
from litmus.generation import Sampling, generate
from litmus.generation.engine import Request
from litmus.generation.sampling import probabilities
from litmus.generation.speculative.decode import AcceptanceStats, speculate
from litmus.generation.speculative.drafts import Draft, ModelDraft, MtpDraft
from litmus.model import Decoder, build

CONTEXT = 32
PROMPT = [3, 1, 4]
SHAPE: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": CONTEXT, "vocab_size": 13}
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def make(rough: Callable[..., Decoder]) -> Callable[..., Decoder]:
    return lambda recipe, **changes: rough(build(recipe, **{**SHAPE, **changes})).eval()


def written(model: Decoder, draft: Draft, request: Request, stats: AcceptanceStats | None = None) -> list[int]:
    events = speculate(model, request, draft, stats or AcceptanceStats())
    return [event.token for event in events if event.token is not None]


def drafts_of(make: Callable[..., Decoder], model: Decoder) -> dict[str, Draft]:
    """A draft that is always right, one that is hardly ever, and the model's own modules."""
    drafts = {"itself": ModelDraft(model, max_tokens=3), "another": ModelDraft(make("gpt2", seed=5, depth=1))}
    return {**drafts, "modules": MtpDraft(model)}


@pytest.mark.parametrize("draft", ["itself", "another", "modules"])
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("mtp", {"objective.depth": 3}),
        ("deepseek", {"objective.depth": 2}),
        ("standard", {"objective": {"kind": "mtp_parallel", "depth": 2}}),
    ],
)
def test_greedy_text_is_that_of_greedy_decoding(
    make: Callable[..., Decoder], recipe: str, changes: dict[str, Any], draft: str
) -> None:
    model = make(recipe, **changes)
    for prompt in (PROMPT, [7], [5] * 9):
        request = Request(prompt, GREEDY, max_new_tokens=20)
        found = written(model, drafts_of(make, model)[draft], request)
        assert [found] == generate(model, [prompt], max_new_tokens=20, temperature=0)


def test_penalties_count_the_drafted_tokens_too(make: Callable[..., Decoder]) -> None:
    model = make("mtp", **{"objective.depth": 3})
    penalties: dict[str, Any] = {"repetition_penalty": 1.7, "frequency_penalty": 0.5, "no_repeat_ngram": 2}
    expected = generate(model, [PROMPT], max_new_tokens=20, temperature=0, **penalties)
    for draft in drafts_of(make, model).values():
        request = Request(PROMPT, Sampling(temperature=0, **penalties), max_new_tokens=20)
        assert [written(model, draft, request)] == expected


@pytest.mark.parametrize("draft", ["another", "modules"])
def test_sampled_text_has_the_distribution_of_the_model(make: Callable[..., Decoder], draft: str) -> None:
    tiny = {"vocab_size": 5, "dim": 8, "depth": 1, "heads": 2}
    model = make("mtp", **tiny, **{"objective.depth": 2})
    sampling = Sampling(temperature=0.9, top_k=3)
    drafting: Draft = MtpDraft(model) if draft == "modules" else ModelDraft(make("gpt2", **tiny))
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    with torch.no_grad():
        for _ in range(4):
            longer = {}
            for text, share in expected.items():
                p = probabilities(model(torch.tensor([[*PROMPT, *text]]))[:, -1], sampling)[0].tolist()
                longer |= {(*text, token): share * each for token, each in enumerate(p) if each}
            expected = longer
    draws, stats = 700, AcceptanceStats()
    texts = (
        written(model, drafting, Request(PROMPT, sampling, max_new_tokens=4, seed=seed), stats) for seed in range(draws)
    )
    counts = Counter(map(tuple, texts))
    assert set(counts) <= set(expected)
    assert 0.2 < stats.accepted / stats.drafted < 0.95, "both ways out of a check are taken"
    likely = [text for text, share in expected.items() if share * draws >= 5]
    rest = draws - sum(counts[text] for text in likely)
    observed = [*(counts[text] for text in likely), rest]
    shares = [expected[text] for text in likely]
    assert scipy.stats.chisquare(observed, [draws * share for share in (*shares, 1 - sum(shares))]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [("mtp", {}), ("deepseek", {}), ("standard", {"objective": {"kind": "mtp_parallel", "depth": 3}})],
)
def test_modules_draft_what_they_predict_without_a_cache(
    make: Callable[..., Decoder], recipe: str, changes: dict[str, Any]
) -> None:
    model = make(recipe, **(changes or {"objective.depth": 3}))
    seen: list[tuple[int, list[int], torch.Tensor]] = []

    class Watched(MtpDraft):
        def propose(self, tokens: Any, number: int, draw: Any) -> None:
            text = list(tokens)

            def watching(logits: torch.Tensor) -> int:
                seen.append((len(tokens), list(text), logits[0].clone()))
                text.append(draw(logits))
                return text[-1]

            super().propose(tokens, number, watching)

    stats = AcceptanceStats()
    written(model, Watched(model), Request(PROMPT, Sampling(temperature=2.0), max_new_tokens=25), stats)
    assert 0 < stats.accepted < stats.drafted
    for known, text, logits in seen:
        place = known - 2  # the last token whose vector the model has made
        with torch.no_grad():
            hidden = model.hidden(torch.tensor([text]))[:, : place + 1]
            for ahead in range(1, len(text) - known + 2):
                entering = torch.tensor([text[ahead : place + 1 + ahead]])
                ctx = model.forward_context(entering)
                hidden, vectors = model.objective.predict_ahead(ahead, model, hidden, entering, ctx)  # type: ignore[operator]
            torch.testing.assert_close(model.head(vectors[0, -1]), logits)


def test_a_draft_that_is_always_right_is_always_accepted(make: Callable[..., Decoder]) -> None:
    model, stats = make("standard"), AcceptanceStats()
    written(model, ModelDraft(model, max_tokens=4), Request(PROMPT, GREEDY, max_new_tokens=21), stats)
    assert (stats.drafted, stats.accepted, stats.passes) == (16, 16, 4)
    assert str(stats) == "accepted 100% of 16 drafted tokens; 5.00 tokens per pass of the model"


def test_drawing_also_accepts_all_of_a_draft_with_the_same_distribution(make: Callable[..., Decoder]) -> None:
    model, stats = make("standard"), AcceptanceStats()
    written(model, ModelDraft(model), Request(PROMPT, Sampling(temperature=1.3), max_new_tokens=21), stats)
    assert stats.accepted == stats.drafted > 0


@pytest.mark.parametrize("draft", ["itself", "another", "modules"])
def test_a_stop_token_ends_the_text_wherever_it_was_drafted(make: Callable[..., Decoder], draft: str) -> None:
    model = make("mtp", **{"objective.depth": 3})
    whole = generate(model, [PROMPT], max_new_tokens=20, temperature=0)[0]
    for stop in set(whole):
        request = Request(PROMPT, GREEDY, max_new_tokens=20, stop=[stop])
        events = list(speculate(model, request, drafts_of(make, model)[draft], AcceptanceStats()))
        assert [event.token for event in events] == [*whole[: whole.index(stop)], None]
        assert events[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "limit", "ending"), [(3, 7, "length"), (3, 1, "length"), (CONTEXT - 4, 9, "context")]
)
def test_a_text_ends_at_its_limit_or_at_the_context(
    make: Callable[..., Decoder], prompt: int, limit: int, ending: str
) -> None:
    model = make("mtp", **{"objective.depth": 3})
    for draft in drafts_of(make, model).values():
        events = list(speculate(model, Request([1] * prompt, GREEDY, max_new_tokens=limit), draft, AcceptanceStats()))
        assert len(events) == min(limit, CONTEXT - prompt)
        assert [event.finish_reason for event in events] == [*[None] * (len(events) - 1), ending]


def test_log_probabilities_are_those_of_the_model(make: Callable[..., Decoder]) -> None:
    model = make("mtp")
    request = Request(PROMPT, Sampling(temperature=2.0), max_new_tokens=12, logprobs=True)
    events = list(speculate(model, request, MtpDraft(model), AcceptanceStats()))
    text = [*PROMPT, *(event.token for event in events if event.token is not None)]
    with torch.no_grad():
        exact = model(torch.tensor([text]))[0].log_softmax(-1)
    expected = [float(exact[place - 1, text[place]]) for place in range(len(PROMPT), len(text))]
    assert [event.logprob for event in events] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("recipe", ["window", "compressed", "worker", "mod"])
def test_a_cache_that_cannot_go_back_is_refused_by_the_name_of_its_mixer(
    make: Callable[..., Decoder], recipe: str
) -> None:
    model = make(recipe)
    parts = model.recipe.layer_parts()[-1]
    with pytest.raises(
        BadInput, match=f"mixer '{parts['mixer'].kind}' in block '{parts['block'].kind}' cannot be truncated"
    ):
        next(speculate(model, Request(PROMPT), ModelDraft(make("standard")), AcceptanceStats()))
    with pytest.raises(BadInput, match="the draft"):
        ModelDraft(model)


def test_a_model_without_modules_cannot_draft_for_itself(make: Callable[..., Decoder]) -> None:
    with pytest.raises(BadInput, match=r"standard has no multi-token modules .*'next_token'"):
        MtpDraft(make("standard"))


def test_a_draft_of_too_short_a_context_is_refused(make: Callable[..., Decoder]) -> None:
    draft = ModelDraft(make("standard", context=8))
    with pytest.raises(BadInput, match="the draft's context is 8 tokens and the text may grow to 23"):
        next(speculate(make("standard"), Request(PROMPT, max_new_tokens=20), draft, AcceptanceStats()))
