"""Checks that need no comparison: theorems in fp64, exact counts of FLOPs, and the search for super weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from litmus.claims.record import Figure
from litmus.comparison.statistics import t_interval
from litmus.compression.planting import plant_super_weight
from litmus.compression.source import load_source, text_blocks, text_of
from litmus.compression.study import study
from litmus.compression.superweights import Search, find_super_weights
from litmus.diagnostics import down_projections
from litmus.errors import BadInput
from litmus.model import build, resolve
from litmus.model.costs import meta_model
from litmus.nn import Batch, Mla
from litmus.runtime.meta import meta_device
from litmus.training.run.config import UNKNOWN_CORPUS, LoadedRun

DRAWS = 20
"""Random models or permutations that a theorem is tried on."""

THOUSAND = 1000
"""Weights that are zeroed together, against the one."""


def exact(label: str, unit: str, value: float, count: int = 1) -> Figure:
    """A figure without an interval."""
    return Figure(label=label, unit=unit, value=value, low=value, high=value, count=count)


@torch.no_grad()
def order_blindness() -> dict[str, Figure]:
    """How far a permutation of the prefix moves the last logits of models without positions, in standard deviations.

    fp64, random weights, DRAWS permutations: of one layer the largest change (Irie 2025, arXiv 2501.00659: none), of
    two layers the smallest.
    """
    changes: dict[int, list[float]] = {}
    for depth in (1, 2):
        for seed in range(DRAWS):
            generator = torch.Generator().manual_seed(seed)
            model = build("nope", vocab_size=64, dim=32, depth=depth, heads=2, context=32).double().eval()
            for weights in model.parameters():
                weights.copy_(torch.randn(weights.shape, generator=generator, dtype=weights.dtype))
                if weights.dim() > 1:
                    weights.div_(weights.shape[-1] ** 0.5)
            tokens = torch.randperm(64, generator=generator)[:16]  # all different, so that every order is another text
            order = torch.cat((torch.randperm(15, generator=generator), torch.tensor([15])))
            before, after = model(torch.stack((tokens, tokens[order])))[:, -1]
            changes.setdefault(depth, []).append(float((before - after).abs().max() / before.std()))
    unit = "of the logits' sd"
    return {
        "one_layer": exact("one layer: largest change of the last logits", unit, max(changes[1]), DRAWS),
        "two_layers": exact("two layers: smallest change of the last logits", unit, min(changes[2]), DRAWS),
    }


def mixer_flops(recipe: str, against: str, size: str, context: int) -> dict[str, Figure]:
    """FLOPs of the mixers of a forward pass relative to those of another recipe.

    scores: of the products that are not with a weight matrix, that is of scores and weighted sums; dense scores count
    as T x T. mixer: of all products of the mixers.
    """
    (scores, mixer), (other_scores, other_mixer) = (_mixer_flops(name, size, context) for name in (recipe, against))
    at = f"at {context} tokens, size {size}"
    return {
        "scores": exact(f"{recipe} / {against}, FLOPs of scores and sums {at}", "times", scores / other_scores),
        "mixer": exact(f"{recipe} / {against}, FLOPs of attention with projections {at}", "times", mixer / other_mixer),
    }


def _mixer_flops(recipe: str, size: str, context: int) -> tuple[int, int]:
    model = meta_model(resolve(recipe, size=size, overrides={"context": context}, vocab_size=256)).eval()
    with meta_device(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, context).long())
    weighted = (torch.ops.aten.mm, torch.ops.aten.addmm)
    scores = total = 0
    for module, flops in counter.get_flop_counts().items():
        if module.startswith("Decoder.layers.") and module.endswith(".mixer"):
            total += sum(flops.values())
            scores += sum(count for operator, count in flops.items() if operator not in weighted)
    return scores, total


def absorption_flops(recipe: str) -> dict[str, Figure]:
    """Multiply-adds per token of keys and values from full matrices W_UK W_DKV, relative to the two thin steps.

    The published absorption forms the full ones (fault F4): dim · width against rank · (dim + width) per projection.
    """
    model = meta_model(resolve(recipe))
    mixer = next(module for module in model.modules() if isinstance(module, Mla))
    dim, widths = model.recipe.dim, (mixer.heads * mixer.nope, mixer.heads * mixer.value)
    full = sum(dim * width for width in widths)
    thin = sum(mixer.rank * (dim + width) for width in widths)
    return {"full_to_thin": exact("full / thin matrices, multiply-adds of keys and values", "times", full / thin)}


@torch.no_grad()
def position_norms() -> dict[str, Figure]:
    """How positions change norms in fp64: the largest change by RoPE in MLA, the mean change by added positions.

    Changes are relative to the norm before. Embeddings and learned positions are those of a new model.
    """
    tokens = torch.randint(256, (2, 128), generator=torch.Generator().manual_seed(0))

    def changes(before: Tensor, after: Tensor) -> Tensor:
        return (after.norm(dim=-1) / before.norm(dim=-1) - 1).abs()

    rotated = build("mla", vocab_size=256).double()
    mixer = next(module for module in rotated.modules() if isinstance(module, Mla))
    assert mixer.rotation is not None, "mla has RoPE"
    keys = torch.randn(2, 128, 1, mixer.rope, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rotation = changes(keys, mixer.rotation(keys, rotated.forward_context(tokens))).max()
    found = {"rotation": exact("RoPE in MLA, largest change of a key's norm", "of the norm", float(rotation))}
    for name in ("learned", "sinusoidal"):
        model = build(name, vocab_size=256).double()
        ctx = model.forward_context(tokens)
        x = model.embed(tokens, ctx)
        mean = float(changes(x, model.positions(x, ctx)).mean())
        found[name] = exact(f"{name} positions, mean change of an embedding's norm", "of the norm", mean)
    return found


def super_weights(runs: Sequence[Path], log: Callable[[str], None]) -> dict[str, Figure]:
    """The search for super weights in trained models, what they carry, and whether a planted one is found in each.

    one_weight, thousand_weights: nats per token that zeroing the weight with the largest effect, and the 1,000 largest
    others, cost. Intervals are over the models; of one model over blocks of text.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in ("found", "one", "thousand", "planted")}
    spans: dict[str, tuple[float, float, float]] = {}
    for number, folder in enumerate(runs):
        log(f"searching model {number + 1} of {len(runs)} for super weights")
        source = load_source(folder, log=log)
        data = "stdlib" if source.config.data.corpus == UNKNOWN_CORPUS else None
        batch = text_blocks(source, text_of(source, data, log))
        search = find_super_weights(source.model, batch)
        thousand = study(source.model, batch, source.tokenizer, search).counts["largest"][THOUSAND]
        largest = search.candidates[0].increase if search.candidates else None
        seed = str(number)
        found["found"][seed] = float(len(search.super_weights))
        found["thousand"][seed] = thousand.mean
        if largest is not None:
            found["one"][seed] = largest.mean
            spans["one"] = largest.mean, largest.low, largest.high
        spans["thousand"] = thousand.mean, thousand.low, thousand.high
        planted = _finds_planted(source, batch, number)
        if planted is not None:
            found["planted"][seed] = float(planted)
    found["difference"] = {seed: one - found["thousand"][seed] for seed, one in found["one"].items()}
    labels = {
        "found": ("super weights of a model", "weights"),
        "one": ("zeroing the weight with the largest effect", "nats per token"),
        "thousand": ("zeroing the 1,000 largest others", "nats per token"),
        "difference": ("zeroing the one − zeroing the 1,000", "nats per token"),
        "planted": ("planted super weights that the search finds", "of 1"),
    }
    figures = {name: _over_models(*labels[name], values, spans.get(name)) for name, values in found.items()}
    return {
        "found": figures["found"],
        "one_weight": figures["one"],
        "thousand_weights": figures["thousand"],
        "one_to_thousand": figures["difference"],
        "planted_found": figures["planted"],
    }


def _over_models(label: str, unit: str, values: dict[str, float], span: tuple[float, float, float] | None) -> Figure:
    if not values:
        note = "no activation of any model stands out"
        return Figure(label=label, unit=unit, value=None, low=None, high=None, note=note)
    if len(values) > 1:
        interval = t_interval(list(values.values()))
        span = interval.mean, interval.low, interval.high
    value, low, high = span or (next(iter(values.values())),) * 3
    return Figure(label=label, unit=unit, value=value, low=low, high=high, count=len(values), values=values)


def _finds_planted(source: LoadedRun, batch: Batch, seed: int) -> bool | None:
    """Whether the search names a super weight that was planted in the model; None if it has no place for one."""
    rows, columns = down_projections(source.model)[0].matrix.shape
    row, column = (7 * seed + 3) % rows, (11 * seed + 5) % columns
    try:
        model, plant = plant_super_weight(source.model, batch.tokens, row=row, column=column, seed=seed)
    except BadInput:
        return None
    return _names(find_super_weights(model, batch), plant.parameter, row, column)


def _names(search: Search, parameter: str, row: int, column: int) -> bool:
    places = [(one.projection.parameter, one.row, one.column) for one in search.super_weights]
    return (parameter, row, column) in places


@dataclass(frozen=True)
class NamedCheck:
    """A check and the names of its figures."""

    function: Callable[..., dict[str, Figure]]
    figures: tuple[str, ...]


CHECKS: dict[str, NamedCheck] = {
    "order_blindness": NamedCheck(order_blindness, ("one_layer", "two_layers")),
    "mixer_flops": NamedCheck(mixer_flops, ("scores", "mixer")),
    "absorption_flops": NamedCheck(absorption_flops, ("full_to_thin",)),
    "position_norms": NamedCheck(position_norms, ("rotation", "learned", "sinusoidal")),
    "super_weights": NamedCheck(
        super_weights, ("found", "one_weight", "thousand_weights", "one_to_thousand", "planted_found")
    ),
}
"""The checks by the name that a protocol gives."""
