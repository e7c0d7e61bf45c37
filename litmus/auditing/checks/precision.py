"""Precision: in bf16 the model still says what it says in fp64, and ten times larger activations do not overflow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from litmus.auditing.check import Check, Evidence
from litmus.auditing.hooks import training_loss
from litmus.auditing.target import AuditTarget, perturbed
from litmus.model import Decoder

EPSILON = 2.0**-8
PER_ROOT_OPERATION = 4.0
LARGER = 10.0


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from in_bf16(target)
    yield from at_large_activations(target)


def bound(depth: int) -> float:
    """The largest median error allowed, in standard deviations of the logits: 4 · 2^-8 · sqrt(4·depth + 1).

    bf16 rounds each number by up to 2^-8 of itself. About four results per layer are rounded, errors of either sign add
    up like a random walk, and 4 leaves room for sums in which large terms cancel.
    """
    return PER_ROOT_OPERATION * EPSILON * (4 * depth + 1) ** 0.5


def in_bf16(target: AuditTarget) -> Iterator[Evidence]:
    exact = target.build_model()
    tokens = target.tokens(2, target.length(target.pick(48, 128)), seed=80)
    limit = bound(target.recipe.depth)
    with torch.no_grad():
        expected = exact(tokens)
        for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
            for way, run in ways(target, device):
                got = run(tokens.to(device)).cpu().double()
                if not got.isfinite().all():
                    error = torch.inf
                else:
                    # The median over positions: a router may pick another expert at a near tie, which moves one token.
                    deviation = (got - expected).std(-1) / expected.std(-1).clamp(min=1e-30)
                    error = float(deviation.flatten().median())
                yield Evidence(
                    f"{way} on {device} lies {error:.2g} standard deviations from fp64",
                    fault=not error <= limit,
                    measured=error,
                    tolerance=limit,
                    where=way if error > limit else "",
                )


def ways(target: AuditTarget, device: str) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """bf16 weights, and fp32 weights under autocast: the two ways in which models are trained."""
    yield "bf16", target.build_model(dtype=torch.bfloat16).to(device)
    single = target.build_model(dtype=torch.float32).to(device)

    def autocast(tokens: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return single(tokens)

    yield "bf16 autocast", autocast


def at_large_activations(target: AuditTarget) -> Iterator[Evidence]:
    """What each norm puts out is made ten times larger; loss and gradients stay finite in fp32 and bf16."""
    tokens, targets = target.tokens(2, target.length(40), seed=81), target.tokens(2, target.length(40), seed=82)
    for dtype in (torch.float32, torch.bfloat16):
        model = perturbed(target.build_model(dtype=torch.float32)).to(dtype)
        with enlarged(model, target):
            loss = training_loss(model, tokens, targets, seed=0).total
            loss.backward()
        broken = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        if not loss.isfinite() or broken:
            what = "the loss is" if not loss.isfinite() else f"the gradients of {len(broken)} parameters are"
            yield Evidence(
                f"with {LARGER:.0f} times larger activations in {str(dtype).removeprefix('torch.')}, {what} not finite",
                fault=True,
                where=broken[0] if broken else "model.loss",
                mark="overflows",
                meaning="Training will stop at the first outlier, and larger models have more of them.",
            )
            return
    yield Evidence(f"{LARGER:.0f} times larger activations do not overflow")


@contextlib.contextmanager
def enlarged(model: Decoder, target: AuditTarget) -> Iterator[None]:
    """Multiply what the recipe's norms put out, which everything in a layer reads; without norms, the embedding."""
    kind = type(target.recipe.layer_contexts()[0].norm())
    norms: list[nn.Module] = [module for module in model.modules() if isinstance(module, kind)] or [model.embedding]
    handles = [norm.register_forward_hook(lambda _, __, output: output * LARGER) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


CHECK = Check(
    name="precision",
    asserts="Logits in bf16 stay near those in fp64, and ten times larger activations do not overflow.",
    how="bf16 weights and bf16 autocast against fp64, on the CPU and on CUDA where there is one; outputs of all norms "
    "times ten, forward and backward.",
    tolerance="4 · 2^-8 · sqrt(4·depth + 1) standard deviations of the logits, median over positions: the rounding of "
    "bf16 through about four results per layer, added up like a random walk, times four.",
    means="Trained in bf16, as most models are, it is not the model that was described, or it diverges.",
    mark="loses its precision in bf16",
    gather=gather,
)
