"""Precision: predictions in bf16 are near those in fp64, and ten times larger activations do not overflow."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.check import Check, Evidence, needs
from litmus.auditing.exact import Exact
from litmus.auditing.hooks import training_loss
from litmus.auditing.target import AuditTarget, perturbed, said
from litmus.model import Decoder

BF16_EPSILON = 2.0**-8
ERROR_FACTOR = 4.0
ACTIVATION_FACTOR = 10.0
AUTOCAST = "bf16 autocast"
NO_KERNEL = "not implemented for|Unsupported dtype"
MIXED_TYPES = "dtype|scalar type|same type"
"""What PyTorch says of an operator that it lacks in bf16, and of one on two types, as of a module made for one."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from in_bf16(target)
    yield from finite_to_the_end(target)
    yield from at_all_positions(target)
    yield from no_leak_by_rounding(target)
    yield from with_large_activations(target)


def bound(depth: int) -> float:
    """Limit of the median error, in standard deviations of the logits: 4 · 2^-8 · sqrt(4·depth + 1).

    bf16 rounds with a relative error of up to 2^-8, at about four results per layer; errors of either sign add up like
    a random walk, and the factor 4 covers sums in which large terms cancel.
    """
    return ERROR_FACTOR * BF16_EPSILON * (4 * depth + 1) ** 0.5


@needs("weights")
def in_bf16(target: AuditTarget) -> Iterator[Evidence]:
    exact = target.build_model()
    tokens = target.tokens(2, target.length(target.pick(48, 128)), seed=80)
    with torch.no_grad():
        expected = exact(tokens)
        # Log probabilities are all negative: rounded by their size, and judged relative to their spread.
        offset = float((expected.mean(-1).abs() / expected.std(-1).clamp(min=1e-30)).median())
        limit = bound(target.depth) + BF16_EPSILON * offset
        for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
            for name, run in bf16_models(target, device):
                try:
                    got = run(tokens.to(device)).cpu().double()
                except RuntimeError as failure:
                    if not is_limit(target, failure):
                        raise
                    yield Evidence(f"not with {name} on {device}, in which the model does not run: {said(failure)}")
                    continue
                if not got.isfinite().all():
                    error = torch.inf
                else:
                    # Median over positions: a router may select another expert at a near tie, which changes one token.
                    error = float(deviation(got.flatten(0, 1), expected.flatten(0, 1)).median())
                yield Evidence(
                    f"{name} on {device} differs by {error:.2g} standard deviations from fp64",
                    fault=not error <= limit,
                    measured=error,
                    tolerance=limit,
                    where=name if error > limit else "",
                )


def is_limit(target: AuditTarget, failure: RuntimeError) -> bool:
    """Whether the model does not run in bf16 because PyTorch lacks an operator in it, or a module has its own types."""
    return bool(re.search(NO_KERNEL + ("|" + MIXED_TYPES if target.lacks("recipe") else ""), str(failure)))


@needs("weights")
def finite_to_the_end(target: AuditTarget) -> Iterator[Evidence]:
    """Logits in fp32 are finite in the longest text, where powers and sums over the text have grown."""
    length = min(target.reach, LATE_LENGTHS[1])
    with torch.no_grad():
        got = target.build_model(dtype=torch.float32)(target.text(length))[0]
    wrong = (~got.isfinite().all(-1)).nonzero()
    if len(wrong):
        yield Evidence(
            f"in fp32 the logits of a text of {length} tokens are not finite, although they are in fp64",
            fault=True,
            where=f"from position {int(wrong[0])} on",
            mark="overflows",
            meaning="Longer texts can be neither trained nor read.",
        )


MAX_LEAK_LENGTH = 520
MIN_LENGTH, MIN_LATE_LENGTH, LATE_LENGTHS = 64, 257, (520, 1100)
"""A quarter of this many positions is judged; those up to 256 are exact in bf16."""

MAX_GROWTH = 4.0
"""Error at late positions relative to that at early ones: that of angles in bf16 grows tenfold by position 400."""


@needs("weights")
def at_all_positions(target: AuditTarget) -> Iterator[Evidence]:
    """The error grows neither with the position nor with the length of the text; perturbed weights show it better."""
    length = min(target.context, target.reach, target.pick(*LATE_LENGTHS))
    if length < MIN_LENGTH or target.affordable < 1:
        return
    text, quarter = target.text(length), length // 4
    with torch.no_grad(), target.exact():
        expected = target.model(text)[0]
    with torch.no_grad(), contextlib.suppress(RuntimeError), Exact(everywhere=True):  # two types may not multiply
        expected = target.model(text)[0].double()
    runs = {"bf16": copy.deepcopy(target.model).to(torch.bfloat16), "fp64 with its own casts": target.model}
    for name, model in runs.items():
        try:
            with torch.no_grad():
                error, alone = (deviation(model(tokens)[0], expected) for tokens in (text, text[:, :quarter]))
        except RuntimeError as failure:
            if not is_limit(target, failure):
                raise
            continue
        early, late = float(error[8:quarter].median()), float(error[-quarter:].median())
        limit = max(bound(target.depth), MAX_GROWTH * float(alone[8:].median()))
        if early > limit:
            yield imprecise(name, early, limit, f"the first {quarter} of {length} positions", "in long texts")
        limit = max(bound(target.depth), MAX_GROWTH * early)
        if length < MIN_LATE_LENGTH or (model is target.model and late <= limit):
            continue  # a model without casts, as most are, has no difference to tell
        yield imprecise(name, late, limit, f"the last {quarter} of {length} positions", "at late positions")


def deviation(got: Tensor, expected: Tensor) -> Tensor:
    """Deviations (T,) of logits (T, V) from those of a text that begins so, in standard deviations of the logits."""
    expected = expected[: len(got)]
    return (got.double() - expected).std(-1) / expected.std(-1).clamp(min=1e-30)


def imprecise(name: str, error: float, limit: float, where: str, when: str) -> Evidence:
    return Evidence(
        f"at {where}, {name} differs by {error:.2g} standard deviations",
        fault=not error <= limit,
        measured=error,
        tolerance=limit,
        where=where if not error <= limit else "",
        mark=f"loses its precision {when}",
        meaning="Positions or sums over them are held in too few bits: beyond some length tokens are confused.",
    )


MAX_LEAK = 1e-3
"""Standard deviations of the logits by which rounding may carry later tokens to earlier positions, as an FFT does."""


@needs("weights")
def no_leak_by_rounding(target: AuditTarget) -> Iterator[Evidence]:
    """With the model's own casts, later tokens have no effect either, as in sums of which later ones are subtracted.

    Texts of equal shape, one at a time: then the same operations compute what earlier positions read.
    """
    if not target.lifts_casts:
        return
    length = min(target.context, target.reach, MAX_LEAK_LENGTH)
    text = target.text(length)
    with torch.no_grad():
        before = target.model(text)[0].double()
        for cut in sorted({length // 4, length // 2, length - 2} - {0}):
            changed = torch.cat((text[:, :cut], target.other_tokens(text)[:, cut:]), 1)
            effect = deviation(target.model(changed)[0, :cut], before)
            if not float(effect.max()) <= MAX_LEAK:
                yield Evidence(
                    f"with the model's own casts, replacing the tokens from position {cut} on changes the logits at "
                    f"position {int(effect.argmax())}, in a sequence of {length}: sums over later tokens do not cancel",
                    fault=True,
                    measured=float(effect.max()),
                    tolerance=MAX_LEAK,
                    where=f"position {int(effect.argmax())}",
                    mark="sees the future by rounding",
                    meaning="Its predictions of a text differ from those that it makes while generating that text.",
                )
                return


def bf16_models(target: AuditTarget, device: str) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Name and forward function of bf16 weights and of fp32 weights under autocast, the usual training precisions."""
    yield "bf16", target.build_model(dtype=torch.bfloat16).to(device)
    single = target.build_model(dtype=torch.float32).to(device)

    def autocast(tokens: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return single(tokens)

    yield AUTOCAST, autocast


@needs("recipe")
def with_large_activations(target: DecoderTarget) -> Iterator[Evidence]:
    """With ten times larger norm outputs, loss and gradients stay finite in fp32 and bf16."""
    tokens, targets = target.tokens(2, target.length(40), seed=81), target.tokens(2, target.length(40), seed=82)
    for dtype in (torch.float32, torch.bfloat16):
        model = perturbed(target.build_model(dtype=torch.float32)).to(dtype)
        try:
            with large_norm_outputs(model, target):
                loss = training_loss(model, tokens, targets, seed=0).total
                loss.backward()
        except RuntimeError as failure:
            if not is_limit(target, failure):
                raise
            continue
        broken = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        if not loss.isfinite() or broken:
            what = "the loss is" if not loss.isfinite() else f"the gradients of {len(broken)} parameters are"
            name = str(dtype).removeprefix("torch.")
            yield Evidence(
                f"with {ACTIVATION_FACTOR:.0f} times larger activations in {name}, {what} not finite",
                fault=True,
                where=broken[0] if broken else "model.loss",
                mark="overflows",
                meaning="Training will stop at the first outlier, and larger models have more outliers.",
            )
            return
    yield Evidence(f"{ACTIVATION_FACTOR:.0f} times larger activations do not overflow")


@contextlib.contextmanager
def large_norm_outputs(model: Decoder, target: DecoderTarget) -> Iterator[None]:
    """Multiply the outputs of the recipe's norms, which all parts of a layer read; without norms, the embedding."""
    kind = type(target.recipe.layer_contexts()[0].norm())
    norms: list[nn.Module] = [module for module in model.modules() if isinstance(module, kind)] or [model.embedding]
    handles = [norm.register_forward_hook(lambda _, __, output: output * ACTIVATION_FACTOR) for norm in norms]
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
    "bf16 in about four results per layer, added up like a random walk, times four.",
    means="Trained in bf16, as most models are, it computes something else than described, or it diverges.",
    mark="loses its precision in bf16",
    gather=gather,
)
