"""Continue prompts token by token through the cache: a batch of rows of different lengths, each ending by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from pydantic import ValidationError
from torch import Tensor

from litmus.data import Tokenizer
from litmus.errors import BadInput, first_fault
from litmus.generation.sampling import Sampling, next_tokens
from litmus.model import Decoder


@overload
def generate(model: Decoder, prompts: str | Sequence[str], *, tokenizer: Tokenizer, **options: Any) -> list[str]: ...
@overload
def generate(model: Decoder, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]: ...


def generate(model: Decoder, prompts: Any, *, tokenizer: Tokenizer | None = None, **options: Any) -> Any:
    """Continuations of the prompts, without the prompts themselves: texts for texts, token lists for token lists.

    Texts need the `tokenizer`; a text starts a new document, so that even an empty one has a token to go on from.
    Options: max_new_tokens (100), temperature (0.8; 0 is greedy), top_k, top_p, seed (0; row i draws from seed + i,
    so its text does not depend on the rows beside it), stop (token id that ends a row; the tokenizer's end token
    where there is one), on_token (called with the list of each step's tokens, None for rows that have ended).
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    if not prompts or not isinstance(prompts[0], str):
        return continue_tokens(model, prompts, **options)
    if tokenizer is None:
        raise BadInput("prompts given as text need tokenizer=...; without one give lists of token ids")
    rows = [[tokenizer.end, *tokenizer.encode(prompt)] for prompt in prompts]
    return [tokenizer.decode(ids) for ids in continue_tokens(model, rows, **{"stop": tokenizer.end, **options})]


@torch.inference_mode()
def continue_tokens(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: int | None = None,
    on_token: Callable[[list[int | None]], None] | None = None,
) -> list[list[int]]:
    """`generate` on token ids: the new tokens of each row, up to `stop` (left out), the limit or the context's end."""
    sampling = _sampling(temperature, top_k, top_p)
    _check(model, prompts, max_new_tokens)
    was_training = model.training
    model.eval()
    try:
        return _decode(model, prompts, max_new_tokens, sampling, seed, stop, on_token)
    finally:
        model.train(was_training)


def _decode(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    stop: int | None,
    on_token: Callable[[list[int | None]], None] | None,
) -> list[list[int]]:
    device = model.embedding.weight.device
    draws = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    tokens, valid = _padded(prompts, device)
    limits = [min(max_new_tokens, model.recipe.context - len(prompt)) for prompt in prompts]
    cache = model.new_cache(len(prompts), tokens.shape[1] + max(limits))
    written: list[list[int]] = [[] for _ in prompts]
    running = [limit > 0 for limit in limits]
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    logits = model.last_logits(tokens, cache, valid=valid, last=ends)
    while any(running):
        uniform = torch.tensor([torch.rand((), generator=draw, dtype=torch.float64) for draw in draws], device=device)
        drawn = next_tokens(logits, sampling, uniform)
        step: list[int | None] = []
        for row, token in enumerate(drawn.tolist()):
            ended = not running[row] or token == stop
            if not ended:
                written[row].append(token)
            step.append(None if ended else token)
            running[row] = not ended and len(written[row]) < limits[row]
        if on_token:
            on_token(step)
        if any(running):
            # An ended row stands still: going on, it could pass the context's end before the others are done.
            going = None if all(running) else torch.tensor(running, device=device)[:, None]
            logits = model.last_logits(drawn[:, None], cache, valid=going)
    return written


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Prompts as one right-padded batch (B, T), and where it is real; None when nothing had to be padded."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    valid = torch.arange(longest, device=device) < lengths[:, None]
    return tokens, None if bool(valid.all()) else valid


def _sampling(temperature: float, top_k: int | None, top_p: float | None) -> Sampling:
    try:
        return Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    except ValidationError as error:
        raise BadInput(first_fault(error, Sampling)) from None


def _check(model: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if not prompts:
        raise BadInput("no prompt was given; at least one is needed")
    if max_new_tokens < 1:
        raise BadInput(f"max_new_tokens = {max_new_tokens} generates nothing; it must be at least 1")
    context, vocabulary = model.recipe.context, model.recipe.vocab_size
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise BadInput(f"prompt {number} is empty; give at least one token to continue from")
        if len(prompt) >= context:
            raise BadInput(
                f"prompt {number} has {len(prompt)} tokens and the context is {context}; shorten it to {context - 1}"
            )
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            raise BadInput(f"prompt {number} holds a token outside 0..{vocabulary - 1}, the model's vocabulary")


def sample_text(model: Decoder, tokenizer: Tokenizer, prompt: str = "", *, seed: int = 0) -> str:
    """A short text for a person to judge a model by: the prompt and how the model goes on."""
    written = generate(model, [prompt], tokenizer=tokenizer, max_new_tokens=60, temperature=0.8, top_p=0.95, seed=seed)
    return prompt + written[0]
