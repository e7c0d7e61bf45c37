"""Generation: rows that go their own ways, stop by themselves, and depend on nothing but their own seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from scipy import stats

from litmus.data.tokens.tokenizer import ByteTokenizer, Tokenizer
from litmus.errors import BadInput
from litmus.generation import Sampling, generate, stream
from litmus.generation.sampling import probabilities
from litmus.model import Decoder, build

VOCABULARY, CONTEXT = 31, 24
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5], [8, 9]]


@pytest.fixture
def model(rough: Callable[..., Decoder]) -> Decoder:
    """A model in training mode, with dropout."""
    shape: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": CONTEXT, "dropout": 0.5}
    return rough(build("learned", vocab_size=VOCABULARY, **shape))


class Letters(Tokenizer):
    """The letters a to z, as ids 0 to 25; `end` ends a document."""

    def __init__(self, end: int = 30) -> None:
        pieces = [*(bytes([ord("a") + i]) for i in range(26)), *[b"?"] * 4, b""]
        super().__init__("letters", pieces, eos_id=end)

    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        return [[ord(letter) - ord("a") for letter in text.strip()] for text in texts]


def test_greedy_rows_are_the_argmax_step_by_step(model: Decoder) -> None:
    found = generate(model, PROMPTS, max_new_tokens=9, temperature=0)
    model.eval()
    for prompt, row in zip(PROMPTS, found, strict=True):
        text = list(prompt)
        for _ in range(9):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        assert row == text[len(prompt) :]


def test_sampled_tokens_follow_the_distribution_of_the_model(model: Decoder) -> None:
    draws, prompt = 3000, PROMPTS[0]
    found = generate(model, [prompt] * draws, max_new_tokens=2, temperature=0.9, top_k=4)
    model.eval()

    def p_after(text: list[int]) -> list[float]:
        logits = model(torch.tensor([text]))[:, -1].detach()
        return probabilities(logits, Sampling(temperature=0.9, top_k=4))[0].tolist()

    firsts = [(first, p) for first, p in enumerate(p_after(prompt)) if p > 0]
    expected = {(a, b): p * q for a, p in firsts for b, q in enumerate(p_after([*prompt, a])) if q > 0}
    counts = Counter(map(tuple, found))
    assert set(counts) <= set(expected) and len(expected) == 16
    observed = [counts[pair] for pair in expected]
    assert stats.chisquare(observed, [draws * p for p in expected.values()]).pvalue > 1e-3


def test_a_sequence_does_not_depend_on_the_batch(model: Decoder) -> None:
    together = generate(model, PROMPTS, max_new_tokens=8, seed=5)
    for row, prompt in enumerate(PROMPTS):
        assert generate(model, [prompt], max_new_tokens=8, seed=5 + row) == [together[row]]
    padded = [PROMPTS[0], [7] * 20, *PROMPTS[2:]]
    assert generate(model, padded, max_new_tokens=8, seed=5)[0] == together[0]


def test_the_seed_decides_and_nothing_else(model: Decoder) -> None:
    first = generate(model, PROMPTS, max_new_tokens=8, seed=1)
    torch.rand(3)
    assert generate(model, PROMPTS, max_new_tokens=8, seed=1) == first
    assert generate(model, PROMPTS, max_new_tokens=8, seed=2) != first
    assert generate(model, [PROMPTS[0]] * 2, max_new_tokens=8, seed=1)[0] == first[0]


def test_equal_prompts_get_different_continuations(model: Decoder) -> None:
    rows = generate(model, [PROMPTS[0]] * 8, max_new_tokens=8)
    assert len({tuple(row) for row in rows}) > 4


def test_the_stop_token_ends_its_row_and_no_other(model: Decoder) -> None:
    whole = generate(model, PROMPTS, max_new_tokens=12, temperature=1.5, seed=3)
    stop = whole[0][4]
    found = generate(model, PROMPTS, max_new_tokens=12, temperature=1.5, seed=3, stop=stop)
    for row, text in zip(found, whole, strict=True):
        assert row == (text[: text.index(stop)] if stop in text else text)
    assert len({len(row) for row in found}) > 1


def test_a_row_may_stop_at_once(model: Decoder) -> None:
    first = generate(model, [PROMPTS[0]], max_new_tokens=1, temperature=0)[0][0]
    assert generate(model, [PROMPTS[0]], temperature=0, stop=first) == [[]]


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_a_row_ends_at_the_limit_or_at_the_end_of_the_context(model: Decoder, limit: int) -> None:
    prompts = [[1], [2] * 10, [3] * (CONTEXT - 1)]
    rows = generate(model, prompts, max_new_tokens=limit)
    assert [len(row) for row in rows] == [min(limit, CONTEXT - len(prompt)) for prompt in prompts]


def test_on_token_gets_none_for_finished_prompts(model: Decoder) -> None:
    told: list[list[int | None]] = []
    whole = generate(model, PROMPTS, max_new_tokens=12, temperature=1.5, seed=3)
    stop = whole[0][4]
    rows = generate(model, PROMPTS, max_new_tokens=12, temperature=1.5, seed=3, stop=stop, on_token=told.append)
    for row, tokens in enumerate(rows):
        assert [step[row] for step in told] == tokens + [None] * (len(told) - len(tokens))


def test_texts_are_continued_from_a_new_document_and_never_echoed(model: Decoder) -> None:
    letters = Letters()
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0}
    texts = ["hello", ""]
    ids = generate(model, [[30, *letters.encode(text)] for text in texts], stop=30, **options)
    assert generate(model, texts, tokenizer=letters, **options) == [letters.decode(row) for row in ids]
    assert generate(model, "hello", tokenizer=letters, **options) == [letters.decode(ids[0])]


def test_the_end_token_of_the_tokenizer_stops_a_text_by_default(model: Decoder) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 3.0}
    written = {end: generate(model, [[end, 7]], **options)[0] for end in range(VOCABULARY)}
    letters = Letters(next(end for end, tokens in written.items() if end in tokens))
    tokens = written[letters.eos_id]
    until_end = letters.decode(tokens[: tokens.index(letters.eos_id)])
    assert generate(model, "h", tokenizer=letters, **options) == [until_end]
    assert generate(model, "h", tokenizer=letters, stop=None, **options) == [letters.decode(tokens)]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored_even_after_an_error(model: Decoder, training: bool) -> None:
    model.train(training)
    generate(model, PROMPTS, max_new_tokens=2)
    assert model.training == training

    def fail(step: object) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        generate(model, PROMPTS, max_new_tokens=2, on_token=fail)
    assert model.training == training


def test_generation_leaves_the_global_random_state_and_the_gradients_alone(model: Decoder) -> None:
    before = torch.get_rng_state()
    generate(model, PROMPTS, max_new_tokens=3)
    assert torch.equal(torch.get_rng_state(), before)
    tokens = torch.tensor([[1, 2, 3]])
    model.loss(tokens, tokens).total.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        ([], {}, "no prompt was given; at least one is needed"),
        ([[1], []], {}, "prompt 1 is empty; give at least one token"),
        (
            [[1] * CONTEXT],
            {},
            f"prompt 0 has {CONTEXT} tokens and the context is {CONTEXT}; shorten it to {CONTEXT - 1}",
        ),
        ([[1], [VOCABULARY]], {}, f"prompt 1 holds a token outside 0..{VOCABULARY - 1}"),
        ([[-1]], {}, "prompt 0 holds a token outside"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens = 0 generates nothing; it must be at least 1"),
        ([[1]], {"temperature": -1}, "temperature = -1 is not valid: input should be greater than or equal to 0"),
        ([[1]], {"temperature": math.nan}, "temperature = nan is not valid"),
        ([[1]], {"top_k": 0}, "top_k = 0 is not valid: input should be greater than or equal to 1"),
        ([[1]], {"top_p": 0}, "top_p = 0 is not valid: input should be greater than 0"),
        ([[1]], {"top_p": 2}, "top_p = 2 is not valid: input should be less than or equal to 1"),
        ("hello", {}, "prompts given as text need tokenizer"),
    ],
)
def test_what_cannot_be_generated_is_refused_in_one_sentence(
    prompts: Any, options: dict[str, Any], sentence: str, model: Decoder
) -> None:
    with pytest.raises(BadInput) as error:
        generate(model, prompts, **options)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_the_pieces_of_a_stream_make_up_the_texts(model: Decoder) -> None:
    letters = Letters()
    options: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1.5, "logprobs": True}
    texts, last = ["", ""], {}
    for chunk in stream(model, ["hello", "a"], tokenizer=letters, **options):
        texts[chunk.index] += chunk.text
        last[chunk.index] = chunk.finish_reason
        assert (chunk.token is None) == (chunk.logprob is None)
    assert texts == generate(model, ["hello", "a"], tokenizer=letters, **options)
    assert set(last.values()) <= {"stop", "length"}


def test_a_stop_string_ends_its_row_before_it_and_no_other(model: Decoder) -> None:
    letters = Letters()
    options: dict[str, Any] = {"tokenizer": letters, "max_new_tokens": 12, "temperature": 1.5, "seed": 3, "stop": None}
    whole = generate(model, ["hello", "a", "zz"], **options)
    stop = whole[0][4:6]
    assert generate(model, ["hello", "a", "zz"], stop_strings=[stop], **options) == [
        text.split(stop)[0] for text in whole
    ]


def test_bad_words_are_never_written(model: Decoder) -> None:
    letters = Letters()
    options: dict[str, Any] = {"tokenizer": letters, "max_new_tokens": 12, "temperature": 2.0, "stop": None}
    word = generate(model, ["hello"], **options)[0][3:5]
    assert word not in generate(model, ["hello"], bad_words=[word], **options)[0]


def test_an_option_that_does_not_exist_is_refused_with_the_nearest(model: Decoder) -> None:
    with pytest.raises(BadInput, match=r"unknown option 'top_pp'; did you mean .*'top_p'"):
        generate(model, PROMPTS, top_pp=0.9)


def test_prompts_beyond_the_batch_size_wait(model: Decoder) -> None:
    prompts = [[n % VOCABULARY] for n in range(70)]
    expected = [generate(model, [prompt], max_new_tokens=4, seed=n)[0] for n, prompt in enumerate(prompts)]
    assert generate(model, prompts, max_new_tokens=4) == expected
    assert generate(model, prompts, max_new_tokens=4, max_batch_size=3) == expected


@pytest.mark.parametrize(
    ("prompts", "option", "sentence"),
    [
        ([[1]], {"stop_strings": ["x"]}, "stop_strings goes with prompts given as texts, which these are not"),
        ([[1]], {"allow_special": True}, "allow_special goes with prompts given as texts, which these are not"),
        (["a"], {"on_token": print}, "on_token goes with prompts given as token ids, which these are not"),
        ([[1]], {"stop_string": "x"}, "unknown option 'stop_string'; did you mean 'stop_strings' or 'stop' or"),
        (["a"], {"temprature": 1}, "unknown option 'temprature'; did you mean 'temperature'?"),
        ([], {}, "no prompt was given; at least one is needed"),
    ],
)
def test_an_option_for_other_prompts_is_not_called_unknown(
    prompts: Any, option: dict[str, Any], sentence: str, model: Decoder
) -> None:
    with pytest.raises(BadInput) as error:
        generate(model, prompts, tokenizer=ByteTokenizer() if prompts == ["a"] else None, **option)
    assert sentence in str(error.value)


def test_prompts_may_be_a_tensor(model: Decoder) -> None:
    rows = torch.tensor([[3, 1, 4], [1, 5, 9]])
    options: dict[str, Any] = {"max_new_tokens": 4, "temperature": 0}
    assert generate(model, rows, **options) == generate(model, rows.tolist(), **options)
