"""The decoding strategies that are measured: with and without a cache, latents absorbed or not, and Litmus's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from litmus.errors import BadInput
from litmus.generation.decode_step import DecodeStep
from litmus.generation.decode_weights import prepare
from litmus.generation.engine import Request
from litmus.generation.integer_linear import Kind, check_kernel
from litmus.generation.sampling import Sampling
from litmus.generation.speculative.decode import AcceptanceStats, speculate
from litmus.generation.speculative.drafts import MtpDraft
from litmus.model import Decoder
from litmus.nn import Mla
from litmus.nn.objectives.mtp import MtpObjective

Decode = Callable[[Decoder, Tensor, int], Iterator[Tensor]]
"""(model, prompts (B, T), n) -> the greedy next tokens (B,), n times."""


@dataclass
class DecodeStrategy:
    """A name, the weights, how they are decoded, and `absorb` of the model's MLA layers.

    `exact` has the same weights in fp32: rounding to bf16 may route a token to other experts, while in fp32 all
    strategies must agree.
    """

    name: str
    model: Decoder
    exact: Decoder
    decode: Decode
    absorb: Literal["auto", "on", "off"] = "auto"
    caches: bool = True
    max_batch_size: int | None = None
    stats: AcceptanceStats = field(default_factory=AcceptanceStats)

    @torch.inference_mode()
    def tokens(self, prompts: Tensor, number: int, *, exact: bool = False) -> Iterator[Tensor]:
        """The next `number` tokens (B,) of prompts (B, T), one after another."""
        model = self.exact if exact else self.model
        for module in model.modules():
            if isinstance(module, Mla):
                module.absorb = self.absorb
        yield from self.decode(model, prompts, number)

    def cache_bytes(self, rows: int, capacity: int) -> int:
        """Bytes of the cache buffers for `rows` x `capacity` tokens."""
        return self.model.new_cache(rows, capacity).bytes() if self.caches else 0


def decode_strategies(model: Decoder, *, precision: str | None = None, compile: bool = False) -> list[DecodeStrategy]:
    """The strategies that this model supports; the first is the plainest, to which the others are compared.

    The first ones read the model's weights as they are. "litmus" is what `litmus generate` does, with weights prepared
    for this machine; each one after it adds one feature.
    """
    weights: dict[str, Any] = {"precision": precision}
    own = prepare(model, **weights)
    plain = model if own.dtype == model.dtype else own
    strategies = [
        DecodeStrategy("no cache", plain, model, recompute, "off", caches=False),
        DecodeStrategy("cache", plain, model, with_cache, "off"),
    ]
    if any(isinstance(module, Mla) for module in model.modules()):
        strategies.insert(1, DecodeStrategy("absorbed", plain, model, recompute, "on", caches=False))
        strategies.append(DecodeStrategy("cache + absorbed", plain, model, with_cache, "on"))
    exact = own if own.dtype == torch.float32 else model
    strategies.append(DecodeStrategy("litmus", own, exact, with_cache))
    if compile:
        strategies.append(DecodeStrategy("compiled", own, exact, compiled_steps()))
    for kind in get_args(Kind):
        if _has_kernel(model, kind):
            bits: dict[str, Any] = {kind: True}
            integers, exact_integers = prepare(model, **weights, **bits), prepare(model, "fp32", **bits)
            strategies.append(DecodeStrategy(kind, integers, exact_integers, with_cache))
    if isinstance(model.objective, MtpObjective) and model.supports_rollback:
        stats = AcceptanceStats()
        strategies.append(DecodeStrategy("speculative", own, exact, speculative(stats), max_batch_size=1, stats=stats))
    for strategy in strategies:
        strategy.model.eval()
        strategy.exact.eval()
    return strategies


def recompute(model: Decoder, prompts: Tensor, number: int) -> Iterator[Tensor]:
    """Without a cache: a forward pass over the whole text for each token."""
    text = prompts
    for _ in range(number):
        tokens = model.last_logits(text).argmax(-1)
        yield tokens
        text = torch.cat((text, tokens[:, None]), dim=1)


def with_cache(model: Decoder, prompts: Tensor, number: int) -> Iterator[Tensor]:
    """With a cache: prefill, then one token per forward pass."""
    cache = model.new_cache(len(prompts), prompts.shape[1] + number)
    tokens = model.last_logits(prompts, cache).argmax(-1)
    yield tokens
    for _ in range(number - 1):
        tokens = model.last_logits(tokens[:, None], cache).argmax(-1)
        yield tokens


def compiled_steps() -> Decode:
    """With a cache and a compiled step, which is kept from one text to the next."""
    steps: dict[tuple[Decoder, int, int], DecodeStep] = {}

    def decode(model: Decoder, prompts: Tensor, number: int) -> Iterator[Tensor]:
        rows, length = prompts.shape
        key = model, rows, length + number
        if key not in steps:
            steps[key] = DecodeStep(model, model.new_cache(rows, length + number), compile=True)
        step = steps[key]
        step.cache.truncate(0)
        tokens = model.last_logits(prompts, step.cache).argmax(-1)
        yield tokens
        for done in range(number - 1):
            tokens = step(tokens, [length + done] * rows, [True] * rows).argmax(-1)
            yield tokens

    return decode


def speculative(stats: AcceptanceStats) -> Decode:
    """Drafted by the model's MTP modules and verified, for one row."""

    def decode(model: Decoder, prompts: Tensor, number: int) -> Iterator[Tensor]:
        request = Request(prompts[0].tolist(), Sampling(temperature=0), max_new_tokens=number)
        for event in speculate(model, request, MtpDraft(model), stats):
            yield torch.tensor([event.token])

    return decode


def _has_kernel(model: Decoder, kind: Kind) -> bool:
    try:
        check_kernel(kind, model.device)
    except BadInput:
        return False
    return True
