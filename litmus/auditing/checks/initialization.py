"""Loss at initialization: near ln V, with signals and gradients of similar size in all layers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from litmus.auditing.adapters.decoder import DecoderTarget, meta_model
from litmus.auditing.check import Check, Evidence, NotApplicable, needs
from litmus.auditing.checks.coverage import nats_per_target
from litmus.auditing.hooks import captured
from litmus.auditing.target import generator
from litmus.model import Decoder
from litmus.nn import Batch
from litmus.runtime.device import seeded

MIN_EXCESS_NATS, MAX_EXCESS_NATS = -0.1, 0.5
"""Valid range of the loss minus ln V, in nats.

Logits with standard deviation s cost s²/2 nats above ln V; 0.5 is reached at s = 1, where an untrained model already
prefers some tokens tenfold. Below ln V there is only chance, about 0.03 on these targets.
"""

MAX_RATIO = 100.0
"""Largest valid ratio between the layers with the largest and the smallest signals or gradients.

A residual stream grows by addition, about tenfold over tens of layers; faults multiply at every layer.
"""

MAX_PARAMETERS = (20_000_000, 300_000_000)
"""Models with at most this many parameters (quick, full) are initialized at full width for this check."""


@needs("recipe")
def gather(target: DecoderTarget) -> Iterator[Evidence]:
    if target.live:
        raise NotApplicable("a live model may be trained; audit its recipe to check the initialization")
    model, width = at_init(target)
    vocabulary = model.recipe.vocab_size
    random = generator(90)
    tokens, targets = (torch.randint(vocabulary, (4, min(64, target.longest)), generator=random) for _ in range(2))
    yield from loss_near_uniform(model, tokens, targets, width)
    yield from scales_over_depth(model, tokens, targets)


def at_init(target: DecoderTarget) -> tuple[Decoder, str]:
    """The recipe's model in fp32 and evaluation mode, shrunk only if it is very large; and a note on its width."""
    parameters = sum(parameter.numel() for parameter in meta_model(target.given).parameters())
    large = parameters > target.pick(*MAX_PARAMETERS)
    recipe = target.recipe if large else target.given
    with seeded(0):
        return Decoder(recipe).eval(), f", at width {recipe.dim}" if large else ""


def loss_near_uniform(model: Decoder, tokens: Tensor, targets: Tensor, width: str) -> Iterator[Evidence]:
    """The loss on random targets is near ln V."""
    expected = math.log(model.recipe.vocab_size)
    loss = float(nats_per_target(model, Batch(tokens, targets)).mean())
    excess = loss - expected
    yield Evidence(
        f"the loss at initialization is {loss:.3f} nats, {excess:+.3f} from ln V = {expected:.3f}{width}",
        fault=not MIN_EXCESS_NATS <= excess <= MAX_EXCESS_NATS,
        measured=excess,
        tolerance=MAX_EXCESS_NATS if excess > 0 else MIN_EXCESS_NATS,
        mark="is miscalibrated at initialization",
        meaning="It starts with confident predictions and spends its first steps unlearning them.",
    )


def scales_over_depth(model: Decoder, tokens: Tensor, targets: Tensor) -> Iterator[Evidence]:
    """The RMS of each layer's output and of its gradient differs by at most `MAX_RATIO` between layers."""
    with contextlib.ExitStack() as stack:
        per_layer = [stack.enter_context(captured(layer)) for layer in model.layers]
        model.loss(tokens, targets).total.backward()
    outputs = [output for outputs in per_layer for output in outputs if output.requires_grad]
    signals = [rms(output.detach()) for output in outputs]
    gradients = [rms(output.grad) for output in outputs if output.grad is not None]
    for what, sizes in (("signals", signals), ("gradients", gradients)):
        if not sizes:
            continue
        ratio = max(sizes) / max(min(sizes), 1e-300)
        broken = not all(math.isfinite(value) for value in sizes) or not ratio <= MAX_RATIO
        smallest, largest = sizes.index(min(sizes)), sizes.index(max(sizes))
        yield Evidence(
            f"{what} differ {ratio:.3g}-fold over {len(sizes)} layers",
            fault=broken,
            measured=ratio,
            tolerance=MAX_RATIO,
            where=f"layer {smallest} smallest, layer {largest} largest" if broken else "",
            mark=f"has {what} that vanish or explode with depth",
            meaning="Some layers learn much faster than others or not at all; a deeper model will not train.",
        )


def rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


CHECK = Check(
    name="loss at initialization",
    asserts="A new model's loss is near ln V, and signals and gradients keep their size from layer to layer.",
    how="Random tokens and random targets through the recipe at its full width, forward and backward.",
    tolerance="-0.1 to +0.5 nats around ln V (logits with standard deviation 1 cost 0.5); sizes within 100-fold over "
    "all layers (residual sums make them tenfold, faults multiply).",
    means="Training starts badly, and a comparison measures how well each arm recovers from that.",
    mark="is miscalibrated at initialization",
    gather=gather,
)
