"""Pruning of whole heads, experts and layers: a smaller model, with a recipe of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.compression.layers import model_with_layers
from litmus.compression.pruning import check_sparsity
from litmus.errors import BadInput
from litmus.model import Decoder
from litmus.model.recipe import validated
from litmus.model.storage import load_weights, weights
from litmus.nn import Batch
from litmus.nn.attention.multihead import Attention
from litmus.nn.moe.experts import MixtureOfExperts

Structure = Literal["heads", "experts", "layers"]


@torch.no_grad()
def prune_structure(model: Decoder, structure: Structure, sparsity: float, batch: Batch) -> Decoder:
    """A copy of the model without the fraction `sparsity` of its heads, experts or layers that matter least.

    Every layer loses the same number of heads (with grouped queries: of groups) or experts. What matters is measured on
    the batch (B, T). BadInput if the model has no such parts, or if none would be removed or left.
    """
    check_sparsity(sparsity)
    return {"heads": _without_heads, "experts": _without_experts, "layers": _without_layers}[structure](
        model, sparsity, batch
    )


def _removed(sparsity: float, count: int, least: int, what: str) -> int:
    """The number of parts that are removed of `count`, of which `least` must stay."""
    removed = round(sparsity * count)
    if removed == 0 or count - removed < least:
        raise BadInput(
            f"--sparsity = {sparsity:g} would remove {removed} of {count} {what}, of which at least 1 must go and "
            f"{least} must stay; valid: {1 / count:.3g} to {(count - least) / count:.3g}"
            if count > least
            else f"the model has {count} {what}, of which {least} must stay, so that none can be removed"
        )
    return removed


def _best(scores: Tensor, removed: int) -> Tensor:
    """The indices of all but the `removed` smallest scores, ascending."""
    return scores.topk(len(scores) - removed).indices.sort().values


def _without_layers(model: Decoder, sparsity: float, batch: Batch) -> Decoder:
    """Layers go that turn the residual stream least (Men et al. 2024, ShortGPT, arXiv 2403.03853, equation 1)."""
    removed = _removed(sparsity, len(model.layers), 1, "layers")
    influence = torch.zeros(len(model.layers))

    def measured(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            influence[number] = 1 - F.cosine_similarity(inputs[0].float(), output.float(), dim=-1).mean()

        return hook

    _forward(model, batch, [(layer, measured(number)) for number, layer in enumerate(model.layers)])
    return model_with_layers(model, _best(influence, removed).tolist())


def _without_heads(model: Decoder, sparsity: float, batch: Batch) -> Decoder:
    """Heads go whose contribution to the residual stream is smallest: the norm of y_h W_hᵀ over all tokens."""
    mixers: list[Any] = [getattr(layer, "mixer", None) for layer in model.layers]
    for number, mixer in enumerate(mixers):
        if type(mixer) is not Attention:
            raise BadInput(
                f"layer {number} has no plain attention, but {type(mixer).__name__}: no heads can be removed"
            )
        if (mixer.heads, mixer.kv_heads, mixer.head_dim) != (mixers[0].heads, mixers[0].kv_heads, mixers[0].head_dim):
            raise BadInput(f"layer {number} has other numbers of heads than layer 0; heads are removed from all alike")
    heads, groups, width = mixers[0].heads, mixers[0].kv_heads, mixers[0].head_dim
    per_group = heads // groups
    removed = _removed(sparsity, groups, 1, "heads" if per_group == 1 else "groups of heads")
    scores = torch.zeros(len(mixers), groups)

    def measured(number: int) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            y = inputs[0].float().flatten(0, -2).split(per_group * width, dim=1)
            w = module.weight.float().split(per_group * width, dim=1)
            scores[number] = torch.stack([(a @ b.T).norm() for a, b in zip(y, w, strict=True)])

        return hook

    _forward(model, batch, [(mixer.out, measured(number)) for number, mixer in enumerate(mixers)])
    kept = [_best(score, removed) for score in scores]
    left = groups - removed
    sizes = {"heads": left * per_group, "kv_heads": left, "head_dim": width}

    def sliced(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        _, number, *_ = name.split(".")
        own = kept[int(number)]
        query_heads = (own[:, None] * per_group + torch.arange(per_group)).flatten()
        rows = (query_heads[:, None] * width + torch.arange(width)).flatten()
        key_rows = (own[:, None] * width + torch.arange(width)).flatten()
        qkv = torch.cat([rows, heads * width + key_rows, (heads + groups) * width + key_rows])
        of_size = {heads: query_heads, heads * width: rows, (heads + 2 * groups) * width: qkv}
        for dim, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
            if old != new:
                tensor = tensor.index_select(dim, of_size[old])
        return tensor

    return _resized(model, "mixer", sizes, sliced)


def _without_experts(model: Decoder, sparsity: float, batch: Batch) -> Decoder:
    """Experts go whose gated outputs are smallest: the norm of gate_e · E_e(x) over the tokens that chose them."""
    layers: list[tuple[int, Any]] = [
        (number, module)
        for number, layer in enumerate(model.layers)
        for module in layer.modules()
        if isinstance(module, MixtureOfExperts)
    ]
    if not layers:
        raise BadInput(f"{model.recipe.name!r} has no mixture of experts, of which experts could be removed")
    counts = {len(module.experts.down) for _, module in layers}
    if len(counts) > 1:
        raise BadInput(f"layers have different numbers of experts ({sorted(counts)}); they are removed from all alike")
    if any(getattr(getattr(module.router, "config", None), "groups", 1) > 1 for _, module in layers):
        raise BadInput("the router chooses among groups of experts of one size, so that single ones cannot be removed")
    count = counts.pop()
    removed = _removed(sparsity, count, max(module.experts.top_k for _, module in layers), "experts")
    scores = {number: torch.zeros(count) for number, _ in layers}

    def measured(number: int) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            tokens, routing = inputs
            for expert in range(count):
                token, choice = (routing.experts == expert).nonzero(as_tuple=True)
                y = F.linear(module.expert_hidden(tokens[token], expert), module.down[expert])
                scores[number][expert] = (y * routing.gates[token, choice, None].to(y.dtype)).float().norm()

        return hook

    _forward(model, batch, [(module.experts, measured(number)) for number, module in layers])
    kept = {number: _best(score, removed) for number, score in scores.items()}

    def sliced(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        return tensor.index_select(0, kept[int(name.split(".")[1])])

    return _resized(model, "feedforward", {"experts": count - removed}, sliced)


def _forward(model: Decoder, batch: Batch, hooks: list[tuple[nn.Module, Callable[..., None]]]) -> None:
    """One forward pass with these forward hooks."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        model.hidden(batch)
    finally:
        for handle in handles:
            handle.remove()


def _resized(
    model: Decoder, family: str, sizes: dict[str, int], sliced: Callable[[str, Tensor, torch.Size], Tensor]
) -> Decoder:
    """The model with other sizes of a part, in the recipe and in every layer group that states one of them."""
    raw = model.recipe.to_dict()
    is_moe = raw[family].get("kind") == "moe"
    if family == "mixer" or is_moe:
        raw[family] = {**raw[family], **sizes}
    for group in raw["layers"]:
        diff = group.get(family)
        if diff and (sizes.keys() & diff.keys() or diff.get("kind") == "moe"):
            group[family] = {**diff, **sizes}
    with torch.random.fork_rng():
        made = Decoder(validated(raw))
    made.to(model.device, model.dtype).eval()
    ours = weights(model)
    tensors = {
        name: ours[name] if ours[name].shape == tensor.shape else sliced(name, ours[name].cpu(), tensor.shape)
        for name, tensor in weights(made).items()
    }
    load_weights(made, tensors, "the model")
    return made
