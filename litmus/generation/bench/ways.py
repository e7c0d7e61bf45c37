"""The ways of decoding that are measured: with and without a cache, latents absorbed or not, and Litmus's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from litmus.generation.drafts import OwnModules
from litmus.generation.engine import Request
from litmus.generation.sampling import Sampling
from litmus.generation.speculative import Tally, speculate
from litmus.generation.stepping import DecodeStep
from litmus.generation.weights import check_int8, prepared
from litmus.model import Decoder
from litmus.nn import Mla
from litmus.nn.objectives.mtp import MtpObjective

Decode = Callable[[Decoder, Tensor, int], Iterator[Tensor]]
"""(model, prompts (B, T), n) -> the likeliest next tokens (B,), n times."""


@dataclass
class Way:
    """A name, the weights it reads, how it decodes, and what latent attention does in it (`absorb` of Mla).

    `exact` has the same weights in fp32: rounding to bf16 may route a token to other experts, in fp32 ways must agree.
    """

    name: str
    model: Decoder
    exact: Decoder
    decode: Decode
    absorb: Literal["auto", "on", "off"] = "auto"
    caches: bool = True
    most_rows: int | None = None
    tally: Tally = field(default_factory=Tally)

    @torch.inference_mode()
    def tokens(self, prompts: Tensor, number: int, *, exact: bool = False) -> Iterator[Tensor]:
        """The next `number` tokens (B,) of prompts (B, T), one after another."""
        model = self.exact if exact else self.model
        for module in model.modules():
            if isinstance(module, Mla):
                module.absorb = self.absorb
        yield from self.decode(model, prompts, number)

    def cache_bytes(self, rows: int, capacity: int) -> int:
        """Bytes of the buffers that this way keeps for so many rows of so many tokens."""
        return self.model.new_cache(rows, capacity).bytes() if self.caches else 0


def ways_of(model: Decoder, *, precision: str | None = None, compile: bool = False) -> list[Way]:
    """The ways that this model can be decoded in; the first is the plainest, to which the others are compared.

    The first ones read the model's weights as they are. "litmus" is what `litmus generate` does, with weights prepared
    for this machine; so do the ones after it, each with one thing more.
    """
    weights: dict[str, Any] = {"precision": precision}
    own = prepared(model, **weights)
    plain = model if own.embedding.weight.dtype == model.embedding.weight.dtype else own
    latent = any(isinstance(module, Mla) for module in model.modules())
    ways = [Way("no cache", plain, model, recomputed, "off", caches=False), Way("cache", plain, model, cached, "off")]
    if latent:
        ways.insert(1, Way("absorbed", plain, model, recomputed, "on", caches=False))
        ways.append(Way("cache + absorbed", plain, model, cached, "on"))
    exact = own if own.embedding.weight.dtype == torch.float32 else model
    ways.append(Way("litmus", own, exact, cached))
    if compile:
        ways.append(Way("compiled", own, exact, compiled_steps()))
    if _has_int8(model):
        ways.append(Way("int8", prepared(model, **weights, int8=True), prepared(model, "fp32", int8=True), cached))
    if isinstance(model.objective, MtpObjective) and all(layer.supports_rollback for layer in model.layers):
        tally = Tally()
        ways.append(Way("speculative", own, exact, speculated(tally), most_rows=1, tally=tally))
    for way in ways:
        way.model.eval()
        way.exact.eval()
    return ways


def recomputed(model: Decoder, prompts: Tensor, number: int) -> Iterator[Tensor]:
    """Without a cache: the whole text again for each token."""
    text = prompts
    for _ in range(number):
        tokens = model.last_logits(text).argmax(-1)
        yield tokens
        text = torch.cat((text, tokens[:, None]), dim=1)


def cached(model: Decoder, prompts: Tensor, number: int) -> Iterator[Tensor]:
    """With a cache: the prompt once, then each token once."""
    cache = model.new_cache(len(prompts), prompts.shape[1] + number)
    tokens = model.last_logits(prompts, cache).argmax(-1)
    yield tokens
    for _ in range(number - 1):
        tokens = model.last_logits(tokens[:, None], cache).argmax(-1)
        yield tokens


def compiled_steps() -> Decode:
    """With a cache and a compiled step, which is kept from one text to the next, as its compiled code is."""
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


def speculated(tally: Tally) -> Decode:
    """Drafted by the model's own modules and checked, for one row."""

    def decode(model: Decoder, prompts: Tensor, number: int) -> Iterator[Tensor]:
        request = Request(prompts[0].tolist(), Sampling(temperature=0), max_new_tokens=number)
        for event in speculate(model, request, OwnModules(model), tally):
            yield torch.tensor([event.token])

    return decode


def _has_int8(model: Decoder) -> bool:
    try:
        check_int8(model.embedding.weight.device)
    except ValueError:
        return False
    return True
