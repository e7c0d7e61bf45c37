"""Unstructured and 2:4 pruning of linear maps and experts; pruning of activations while a model runs; recovery."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from litmus.compression.quantization import Kept, linear_weights
from litmus.data import TokenData
from litmus.data.sampler import Sampler
from litmus.diagnostics import DownProjection, down_projections
from litmus.diagnostics.down_projections import projection_input
from litmus.errors import BadInput
from litmus.model import Decoder
from litmus.nn import Batch
from litmus.nn.moe.experts import Experts
from litmus.training.optimizers import lr_factor
from litmus.training.settings import TrainSettings
from litmus.training.train_step import TrainStep

Method = Literal["magnitude", "wanda", "random"]
Scope = Literal["layer", "global"]

MIN_NORM = 1e-8
"""Norm of inputs that were never seen, as of an expert without tokens, so that its weights keep their order."""


@dataclass(frozen=True)
class PruneSettings:
    """sparsity: fraction of the weights of linear maps in layers that becomes 0. method: how weights are ranked.

    scope: the fraction holds in every matrix ("layer"; for wanda in every row of it), or in all of them together.
    n_of_m: (2, 4) keeps the best 2 of each 4 consecutive inputs. seed: of the random method.
    """

    sparsity: float
    method: Method = "wanda"
    scope: Scope = "layer"
    n_of_m: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)


def check_sparsity(sparsity: float) -> None:
    """BadInput unless 0 <= sparsity < 1."""
    if not 0 <= sparsity < 1:
        raise BadInput(f"--sparsity = {sparsity:g} is not valid; it must be at least 0 and below 1, such as 0.5")


@torch.no_grad()
def pruning_masks(
    model: Decoder, settings: PruneSettings, batch: Batch | None = None, kept: Kept | None = None
) -> dict[str, Tensor]:
    """Which weights of each matrix stay, as bool masks by name; those in `kept` do. batch (B, T) calibrates wanda."""
    names = sorted(name for name in linear_weights(model) if name.startswith("layers."))
    scores = weight_scores(model, names, settings, batch)
    masks = _global(scores, settings.sparsity) if settings.scope == "global" else {}
    for name, score in scores.items():
        if settings.n_of_m is not None:
            masks[name] = _best_of(score, *settings.n_of_m, name)
        elif settings.scope == "layer":
            rows = score if settings.method == "wanda" else score.flatten(-2)
            masks[name] = _smallest_removed(rows, settings.sparsity).view_as(score)
        for place in (kept or {}).get(name, ()):
            masks[name][place] = True
    return masks


def weight_scores(model: Decoder, names: list[str], settings: PruneSettings, batch: Batch | None) -> dict[str, Tensor]:
    """The rank of each weight: |w|, |w| · norm of its input over the tokens (wanda), or a random number.

    Wanda: Sun et al. 2023, arXiv 2306.11695, equation 1.
    """
    parameters = dict(model.named_parameters())
    if settings.method == "random":
        random = torch.Generator().manual_seed(settings.seed)
        return {name: torch.rand(parameters[name].shape, generator=random) for name in names}
    magnitudes = {name: parameters[name].detach().abs().float().cpu() for name in names}
    if settings.method == "magnitude":
        return magnitudes
    if batch is None:
        raise BadInput("--method wanda ranks weights by their inputs on a text, and none was given; name one by --data")
    norms = input_norms(model, batch)
    if missing := [name for name in names if name not in norms]:
        raise BadInput(f"the inputs of {missing[0]} cannot be seen, which --method wanda needs; take magnitude")
    return {name: magnitude * norms[name].clamp(min=MIN_NORM) for name, magnitude in magnitudes.items()}


@torch.no_grad()
def input_norms(model: Decoder, batch: Batch) -> dict[str, Tensor]:
    """The norm of each input over all tokens: (1, I) for a linear map, (E, 1, I) for experts, by the weight's name."""
    squares: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        total = x.detach().float().flatten(0, -2).square().sum(0, keepdim=True).cpu()
        squares[name] = squares[name] + total if name in squares else total

    def of_linear(name: str) -> Callable[..., None]:
        return lambda module, inputs: add(f"{name}.weight", inputs[0])

    def of_experts(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            for expert in range(len(module.down)):
                projection = DownProjection(0, name, expert, module)
                hidden, tokens, _ = projection_input(projection, inputs)
                add(f"{name}.gate_up[{expert}]", inputs[0][tokens])
                add(f"{name}.down[{expert}]", hidden)

        return hook

    handles = []
    experts: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_pre_hook(of_linear(name)))
        elif isinstance(module, Experts):
            handles.append(module.register_forward_hook(of_experts(name)))
            experts |= {f"{name}.{matrix}": len(module.down) for matrix in module.matrices}
    try:
        model.hidden(batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, count in experts.items():
        squares[name] = torch.stack([squares.pop(f"{name}[{expert}]") for expert in range(count)])
    return {name: total.sqrt() for name, total in squares.items()}


def _smallest_removed(scores: Tensor, sparsity: float) -> Tensor:
    """A mask without the smallest scores of each row (..., N), as many of them as the sparsity says."""
    count = round(sparsity * scores.shape[-1])
    mask = torch.ones_like(scores, dtype=torch.bool)
    return mask.scatter(-1, scores.topk(count, dim=-1, largest=False).indices, False) if count else mask


def _global(scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    flat = torch.cat([score.flatten() for score in scores.values()])
    mask = _smallest_removed(flat, sparsity)
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def _best_of(score: Tensor, best: int, of: int, name: str) -> Tensor:
    if score.shape[-1] % of:
        raise BadInput(f"{name} has a width of {score.shape[-1]}, which {of} does not divide, so not {best}:{of}")
    return _smallest_removed(score.unflatten(-1, (-1, of)), 1 - best / of).flatten(-2)


@torch.no_grad()
def apply_masks(model: Decoder, masks: Mapping[str, Tensor]) -> None:
    """Set the weights outside the masks to 0."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].mul_(mask.to(parameters[name].device))


def recover(
    model: Decoder, masks: Mapping[str, Tensor], data: TokenData, settings: TrainSettings, context: int, steps: int
) -> None:
    """Train the pruned model in place for `steps` steps in fp32, with the removed weights held at 0."""
    sampler = Sampler(data.train, context=context, batch=settings.batch, seed=settings.order_seed)
    step = TrainStep(model.train(), settings, "fp32", data.tokenizer.prefix[0])
    for number in range(steps):
        step.step([sampler.batch(number)], settings.lr * lr_factor((number + 0.5) / steps, settings))
        apply_masks(model, masks)
    model.eval()


@contextlib.contextmanager
def dynamic_pruning(model: Decoder, sparsity: float) -> Iterator[None]:
    """In this block each token keeps the largest activations of every feedforward's hidden layer only.

    The fraction `sparsity` of the inputs of each down-projection, the smallest in size, is set to 0 for each token; no
    weight changes. Dense kernels multiply these zeros, so that this saves no time by itself.
    """
    check_sparsity(sparsity)

    def pruned(x: Tensor) -> Tensor:
        count = round(sparsity * x.shape[-1])
        return x.scatter(-1, x.abs().topk(count, dim=-1, largest=False).indices, 0.0) if count else x

    modules = {id(one.module): one.module for one in down_projections(model)}
    if not modules:
        raise BadInput(f"{model.recipe.name!r} has no feedforward down-projection, whose inputs --dynamic prunes")
    handles = []
    for module in modules.values():
        if isinstance(module, Experts):
            handles.append(module.dropout.register_forward_hook(lambda inner, inputs, output: pruned(output)))
        else:
            handles.append(module.register_forward_pre_hook(lambda inner, inputs: (pruned(inputs[0]), *inputs[1:])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
