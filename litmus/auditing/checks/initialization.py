"""Loss at initialization: a new model guesses evenly, and neither signals nor gradients fade or grow with depth."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from litmus.auditing.check import Check, Evidence, NotApplicable
from litmus.auditing.checks.coverage import nats_per_target
from litmus.auditing.target import AuditTarget, generator, meta_model
from litmus.model import Decoder

LOW, HIGH = -0.1, 0.5
"""The band around ln V, in nats.

Logits that spread by s at initialization cost s²/2 nats above ln V; 0.5 is reached at s = 1, where a model that knows
nothing already prefers some tokens tenfold. Below ln V lies only chance, about 0.03 on these targets.
"""

GROWTH = 100.0
"""How much larger or smaller signals and gradients may become from the first layer to the last.

A residual stream grows by sums, which tens of layers make tenfold; faults multiply at every layer.
"""

LARGEST = (20_000_000, 300_000_000)
"""Models with up to so many parameters (quick, full) are born at their full width for this."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    if target.live is not None:
        raise NotApplicable("a live model may be trained; audit its recipe to see it at initialization")
    model, width = at_init(target)
    vocabulary = model.recipe.vocab_size
    source = generator(90)
    tokens, targets = (torch.randint(vocabulary, (4, min(64, target.longest)), generator=source) for _ in range(2))
    yield from even(model, tokens, targets, width)
    yield from steady(model, tokens, targets)


def at_init(target: AuditTarget) -> tuple[Decoder, str]:
    """The model as the recipe says it, fp32, evaluation mode; narrowed only if it is very large."""
    parameters = sum(parameter.numel() for parameter in meta_model(target.given).parameters())
    large = parameters > target.pick(*LARGEST)
    recipe = target.recipe if large else target.given
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder(recipe).eval(), f", at width {recipe.dim}" if large else ""


def even(model: Decoder, tokens: Tensor, targets: Tensor, width: str) -> Iterator[Evidence]:
    """The loss on random targets is near ln V."""
    expected = math.log(model.recipe.vocab_size)
    loss = float(nats_per_target(model, tokens, targets).mean())
    excess = loss - expected
    yield Evidence(
        f"the loss at initialization is {loss:.3f} nats, {excess:+.3f} from ln V = {expected:.3f}{width}",
        fault=not LOW <= excess <= HIGH,
        measured=excess,
        tolerance=HIGH if excess > 0 else LOW,
        mark="is miscalibrated at initialization",
        meaning="It starts out sure of tokens it knows nothing about and spends its first steps unlearning that.",
    )


def steady(model: Decoder, tokens: Tensor, targets: Tensor) -> Iterator[Evidence]:
    """The sizes of the layers' outputs, and of the gradients that arrive there."""
    outputs: list[Tensor] = []

    def keep(module: object, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.retain_grad()
            outputs.append(output)

    handles = [layer.register_forward_hook(keep) for layer in model.layers]
    model.loss(tokens, targets).total.backward()
    for handle in handles:
        handle.remove()
    signals = [size(output.detach()) for output in outputs]
    gradients = [size(output.grad) for output in outputs if output.grad is not None]
    for what, sizes in (("signals", signals), ("gradients", gradients)):
        if not sizes:
            continue
        ratio = max(sizes) / max(min(sizes), 1e-300)
        broken = not all(math.isfinite(value) for value in sizes) or not ratio <= GROWTH
        smallest, largest = sizes.index(min(sizes)), sizes.index(max(sizes))
        yield Evidence(
            f"{what} differ {ratio:.3g}-fold over {len(sizes)} layers",
            fault=broken,
            measured=ratio,
            tolerance=GROWTH,
            where=f"layer {smallest} smallest, layer {largest} largest" if broken else "",
            mark=f"has {what} that fade or explode with depth",
            meaning="Some layers learn much faster than others or not at all; a deeper model will not train.",
        )


def size(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


CHECK = Check(
    name="loss at initialization",
    asserts="A new model's loss is near ln V, and signals and gradients keep their size from layer to layer.",
    how="Random tokens and random targets through the recipe at its full width, forward and backward.",
    tolerance="-0.1 to +0.5 nats around ln V (logits that spread by 1 cost 0.5); sizes within 100-fold over all layers "
    "(sums make them tenfold, faults multiply).",
    means="Training starts from a bad place, and a comparison measures how well each arm recovers from it.",
    mark="is miscalibrated at initialization",
    gather=gather,
)
