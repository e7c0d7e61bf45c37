"""The engine, for every recipe: rows that join, wait, leave and go on say what each would say alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import litmus
from litmus.errors import BadInput
from litmus.generation import Engine, Request, Sampling, TokenEvent
from litmus.model import Decoder

VOCABULARY, CONTEXT = 61, 30
SHAPE: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": CONTEXT}
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8, 9, 7], [8, 9], [2, 7, 1, 8], [6]]
Rough = Callable[..., Decoder]


@pytest.fixture
def any_model(distinct_recipe: str, rough: Rough) -> Decoder:
    return rough(litmus.build(distinct_recipe, vocab_size=VOCABULARY, overrides=SHAPE)).eval()


@pytest.fixture
def model(rough: Rough) -> Decoder:
    return rough(litmus.build("learned", vocab_size=VOCABULARY, overrides=SHAPE)).eval()


def requests(**options: Any) -> list[Request]:
    return [Request(prompt, **{"max_new_tokens": 9, "seed": n, **options}) for n, prompt in enumerate(PROMPTS)]


def decoded(engine: Engine, wanted: list[Request], late: int = 0) -> list[list[int]]:
    """The tokens of each request; the last `late` are submitted one by one while the others are decoded."""
    waiting = list(wanted)
    found: dict[int, list[int]] = {}
    for _ in range(len(wanted) - late):
        found[engine.submit(waiting.pop(0))] = []
    while engine.busy or waiting:
        if waiting:
            found[engine.submit(waiting.pop(0))] = []
        for event in engine.step():
            if event.token is not None:
                found[event.id].append(event.token)
    return [found[number] for number in sorted(found)]


def alone(model: Decoder, request: Request, **options: Any) -> list[int]:
    return decoded(Engine(model, max_batch_size=1, **options), [request])[0]


@torch.no_grad()
def without_cache(model: Decoder, request: Request) -> list[int]:
    tokens = list(request.tokens)
    for _ in range(request.max_new_tokens):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(request.tokens) :]


def test_greedy_decoding_is_the_argmax_without_a_cache(any_model: Decoder) -> None:
    greedy = requests(sampling=Sampling(temperature=0))
    found = decoded(Engine(any_model, max_batch_size=4, max_prefill_tokens=5), greedy)
    assert found == [without_cache(any_model, request) for request in greedy]


def test_a_request_that_takes_a_freed_row_keeps_its_own_settings(model: Decoder) -> None:
    engine = Engine(model, max_batch_size=2)
    engine.submit(Request([1], Sampling(temperature=0), 1))
    engine.submit(Request([2], Sampling(temperature=0), 12))
    for _ in range(4):
        engine.step()
    late = Request([3], Sampling(temperature=2.0, repetition_penalty=3.0), 6, seed=8)
    number = engine.submit(late)
    assert [event.token for event in engine.run() if event.id == number] == alone(model, late)


DIFFERENT = [
    Sampling(temperature=1.5, top_p=0.9, repetition_penalty=1.1),
    Sampling(temperature=0),
    Sampling(temperature=1, no_repeat_ngram=2, top_k=9),
    Sampling(temperature=2, logit_bias={7: 5.0}, frequency_penalty=0.7, min_p=0.05),
    Sampling(temperature=0, presence_penalty=9.0),
    Sampling(temperature=1.2, typical_p=0.8, bad_words=[(3,), (1, 2)]),
]


def test_a_sequence_is_the_same_alone_in_a_batch_and_in_a_reused_row(any_model: Decoder) -> None:
    wanted = [replace(request, sampling=own) for request, own in zip(requests(), DIFFERENT, strict=True)]
    expected = [alone(any_model, request) for request in wanted]
    assert decoded(Engine(any_model, max_batch_size=6), wanted) == expected
    assert decoded(Engine(any_model, max_batch_size=3, max_prefill_tokens=2), wanted, late=3) == expected
    ahead = Engine(any_model, max_batch_size=4, max_prefill_tokens=3)
    ahead._overlap = True  # the order of a GPU: the next step is launched before this one is read
    assert decoded(ahead, wanted, late=2) == expected


@pytest.mark.parametrize("ahead", [False, True])
def test_a_request_that_continues_an_earlier_one_prefills_only_what_is_new(any_model: Decoder, ahead: bool) -> None:
    engine, fed = Engine(any_model, max_batch_size=3), 0
    engine._overlap = ahead

    def count(module: Any, given: Any) -> None:
        nonlocal fed
        fed += given[0].numel()

    greedy: dict[str, Any] = {"sampling": Sampling(temperature=0)}
    first = Request(PROMPTS[2], max_new_tokens=3, **greedy)
    others = [Request(prompt, max_new_tokens=12, **greedy) for prompt in ([4], [7, 7])]
    reply, *_ = decoded(engine, [first, *others])  # the row of the first is idle while the others are decoded
    again = Request([*first.tokens, *reply, 2, 6], max_new_tokens=4, **greedy)
    expected = alone(any_model, again)
    any_model.embedding.register_forward_pre_hook(count)
    assert decoded(engine, [again]) == [expected]
    assert fed == 1 + 2 + (4 - 1), "the last token of the first reply, two new ones, and those of the second reply"
    other = Request([*first.tokens[:6], 0, 0], max_new_tokens=1, **greedy)
    fed, expected = 0, alone(any_model, other)
    fed = 0
    assert decoded(engine, [other]) == [expected]
    assert fed == (2 if any_model.supports_rollback else 8)


def test_a_stop_token_ends_its_row_and_no_other(any_model: Decoder) -> None:
    wanted = requests(sampling=Sampling(temperature=2.0))
    whole = decoded(Engine(any_model, max_batch_size=3), wanted)
    stop = whole[0][4]
    for ahead in (False, True):
        engine = Engine(any_model, max_batch_size=3)
        engine._overlap = ahead
        found = decoded(engine, requests(sampling=Sampling(temperature=2.0), stop=[stop]))
        assert found == [row[: row.index(stop)] if stop in row else row for row in whole]


def test_a_slid_sequence_continues_from_the_last_half_of_its_tokens(any_model: Decoder) -> None:
    greedy = Sampling(temperature=0)
    found = alone(any_model, Request(PROMPTS[2], greedy, 50), overflow="slide")
    assert len(found) == 50
    tokens = list(PROMPTS[2])
    for token in found:
        assert token == without_cache(any_model, Request(tokens, greedy, 1))[0]
        tokens.append(token)
        tokens = tokens if len(tokens) < CONTEXT else tokens[-(CONTEXT // 2) :]


def test_after_a_slide_processors_read_the_context_that_is_left(model: Decoder) -> None:
    engine = Engine(model, max_batch_size=1, overflow="slide")
    engine.submit(Request(PROMPTS[2], Sampling(frequency_penalty=0.3), 50))
    tokens = list(PROMPTS[2])
    for count, event in enumerate(engine.run(), start=1):
        assert event.token is not None
        tokens.append(event.token)
        tokens = tokens if len(tokens) < CONTEXT else tokens[-(CONTEXT // 2) :]
        if engine.busy:
            assert engine.history.tokens[0, : engine.history.lengths[0]].tolist() == tokens
            assert engine.history.generated.tolist() == [count]


def test_a_slid_row_does_not_disturb_its_neighbours(model: Decoder) -> None:
    wanted = requests(sampling=Sampling(temperature=1, frequency_penalty=0.3, min_new_tokens=30), max_new_tokens=60)
    expected = [alone(model, request, overflow="slide") for request in wanted]
    for ahead in (False, True):
        engine = Engine(model, max_batch_size=3, max_prefill_tokens=4, overflow="slide")
        engine._overlap = ahead
        assert decoded(engine, wanted) == expected


def test_a_long_prompt_does_not_stop_the_others(model: Decoder) -> None:
    engine = Engine(model, max_batch_size=2, max_prefill_tokens=3)
    engine.submit(Request([1], max_new_tokens=12))
    engine.step()
    engine.submit(Request([2] * 20, max_new_tokens=2))
    heard = [[event.id for event in engine.step()] for _ in range(8)]
    assert heard[:6] == [[0]] * 6
    assert heard[6] == [0, 1]


def test_the_last_event_has_the_finish_reason(model: Decoder) -> None:
    engine = Engine(model, max_batch_size=3, capacity=12)
    greedy = Sampling(temperature=0)
    first = alone(model, Request([4], greedy, 1))[0]
    engine.submit(Request([4], greedy, stop=[first]))
    engine.submit(Request([4], greedy, 3))
    engine.submit(Request([1] * 10, greedy, 50))
    last: dict[int, TokenEvent] = {}
    counts = [0, 0, 0]
    for event in engine.run():
        last[event.id] = event
        counts[event.id] += event.token is not None
    assert [last[number].finish_reason for number in range(3)] == ["stop", "length", "context"]
    assert counts == [0, 3, 2]
    assert last[0].token is None


@torch.no_grad()
def test_log_probabilities_are_the_models_own(model: Decoder) -> None:
    engine = Engine(model, max_batch_size=2)
    engine.submit(Request([3, 1], Sampling(temperature=2.0, top_k=5), 6, logprobs=True))
    engine.submit(Request([3], max_new_tokens=6))
    events = list(engine.run())
    tokens = [event.token for event in events if event.id == 0]
    logp = model(torch.tensor([[3, 1, *tokens]]))[0].log_softmax(-1)
    expected = [float(logp[1 + place, token]) for place, token in enumerate(tokens)]
    assert [event.logprob for event in events if event.id == 0] == pytest.approx(expected)
    assert {event.logprob for event in events if event.id == 1} == {None}


def test_a_cancelled_request_has_no_further_events(model: Decoder) -> None:
    wanted = requests()
    engine = Engine(model, max_batch_size=2)
    for request in wanted:
        engine.submit(request)
    engine.step()
    engine.cancel(0)
    engine.cancel(5)
    found: dict[int, list[int]] = {}
    for event in engine.run():
        found.setdefault(event.id, []).append(event.token)
    assert sorted(found) == [1, 2, 3, 4]
    assert all(found[number] == alone(model, wanted[number]) for number in (2, 3, 4))


def test_the_cache_is_sized_once(model: Decoder) -> None:
    engine = Engine(model, max_batch_size=2)
    buffers = [buffer.data_ptr() for layer in engine.cache.layers for buffer in layer.values()]
    decoded(engine, requests())
    assert [buffer.data_ptr() for layer in engine.cache.layers for buffer in layer.values()] == buffers


@pytest.mark.parametrize(
    ("request_or_options", "sentence"),
    [
        (Request([]), "prompt 0 is empty; give at least one token"),
        (Request([1] * 20), "prompt 0 has 20 tokens and a row of this engine holds 20; shorten it to 19"),
        (Request([VOCABULARY]), f"prompt 0 holds a token outside 0..{VOCABULARY - 1}"),
        (Request([1], max_new_tokens=0), "max_new_tokens = 0 generates nothing"),
        (Request([1], stop=[99]), f"stop names token 99, which is outside 0..{VOCABULARY - 1}"),
        (Request([1], Sampling(logit_bias={-1: 2.0})), "logit_bias names token -1"),
        (Request([1], Sampling(bad_words=[(1, 70)])), "bad_words names token 70"),
        ({"max_batch_size": 0}, "max_batch_size = 0 decodes nothing"),
        ({"overflow": "wrap"}, "overflow 'wrap' is unknown; stop and slide are valid"),
        ({"precision": "fp8"}, "precision 'fp8' is unknown; fp32 and bf16 are valid"),
    ],
)
def test_what_cannot_be_decoded_is_refused_in_one_sentence(
    request_or_options: Any, sentence: str, model: Decoder
) -> None:
    with pytest.raises(BadInput) as error:
        if isinstance(request_or_options, Request):
            Engine(model, capacity=20).submit(request_or_options)
        else:
            Engine(model, **request_or_options)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cache_that_does_not_fit_names_its_size_and_the_rows_that_do(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = model.kv_elements(CONTEXT) * 8
    monkeypatch.setattr("litmus.generation.engine.free_bytes", lambda device: 5 * each + 1)
    Engine(model, max_batch_size=5)
    with pytest.raises(BadInput, match=rf"a cache of 6 rows x {CONTEXT} tokens needs .* are free; 5 rows fit$"):
        Engine(model, max_batch_size=6)
    monkeypatch.setattr("litmus.generation.engine.free_bytes", lambda device: each - 1)
    with pytest.raises(BadInput, match="not even one row fits"):
        Engine(model, max_batch_size=1)
