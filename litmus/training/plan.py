"""The plan of a training (sizes, FLOPs, memory, schedule), made without data, weights or a training step."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from litmus.data import DataSettings
from litmus.data.tokens.make_tokenizer import check_tokenizer_name, read_tokenizer, tokenizer_file
from litmus.model import Decoder, Recipe, Source, resolve, scored_share, training_flops_per_token
from litmus.model.bounds import check_memory, check_trained
from litmus.model.plugins import plugin_faults
from litmus.runtime.device import pick_device
from litmus.runtime.precision import DESCRIPTIONS, Precision, autocast, cast_parameters, resolve_precision
from litmus.training.budget import Budget, Usage
from litmus.training.display import two_columns
from litmus.training.optimizers import hidden_matrices, lr_factor
from litmus.training.run.config import LoadedRun
from litmus.training.settings import TrainSettings

FIXED_VOCABULARIES = {"bytes": 257, "gpt2": 50_257}
TIMEOUT_SECONDS = 120.0
"""Of planning, which usually takes a few seconds."""

SHOWN_FRACTIONS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class Plan:
    """A training that has not started. FLOPs and memory are those of the architecture as torch would run it.

    memory_bytes: peak memory of weights, gradients, optimizer and activations, without the interpreter and libraries.
    """

    recipe: Recipe
    settings: TrainSettings
    device: str
    precision: Precision
    parameters: int
    parameters_non_embedding: int
    parameters_active: int
    flops_per_token: float
    tokens_per_step: int
    steps: int | None
    memory_bytes: dict[str, int]

    def to_json(self) -> str:
        """The plan as JSON."""
        whole = {**vars(self), "recipe": self.recipe.to_dict(), "settings": self.settings.model_dump(mode="json")}
        return json.dumps(whole, indent=1)

    def table(self) -> RenderableType:
        """The plan for a terminal."""
        recipe, settings = self.recipe, self.settings
        table = two_columns()
        rows = {
            "recipe": f"{recipe.name}: {recipe.depth} layers, {recipe.dim} wide, {recipe.heads} heads",
            "vocabulary": f"{recipe.vocab_size:,} tokens",
            "parameters": f"{self.parameters:,} ({self.parameters_non_embedding:,} without embedding and head"
            + (
                f"; {self.parameters_active:,} active for a token)" if self.parameters_active < self.parameters else ")"
            ),
            "sequences": f"{settings.batch} x {settings.context or recipe.context} tokens"
            + (f" x {settings.accumulation} per step" if settings.accumulation > 1 else ""),
            "FLOPs": f"{self.flops_per_token:.4g} per token, forward and backward" + self._per_scored_token(),
            "budget": str(Budget.parse(settings.budget)) + self._budget_in_full(),
            "device": f"{self.device}, precision {self.precision} ({DESCRIPTIONS[self.precision]})",
            "memory": f"about {_mega(sum(self.memory_bytes.values()))}: "
            + ", ".join(f"{name} {_mega(size)}" for name, size in self.memory_bytes.items()),
            "optimizer": f"{settings.optimizer}, peak learning rate {settings.lr:g}, schedule {settings.schedule}",
        }
        for name, value in rows.items():
            table.add_row(name, value)
        schedule = Table(title="learning rate over the budget", title_justify="left", box=None)
        for fraction in SHOWN_FRACTIONS:
            schedule.add_column(f"{fraction:.0%}", justify="right")
        schedule.add_row(*(f"{settings.lr * lr_factor(fraction, settings):.2e}" for fraction in SHOWN_FRACTIONS))
        return Group(table, "", schedule)

    def _per_scored_token(self) -> str:
        scored = scored_share(self.recipe)
        return f"; {self.flops_per_token / scored:.4g} per scored token, {scored:.0%} of them" if scored < 1 else ""

    def _budget_in_full(self) -> str:
        if self.steps is None:
            return ""
        tokens = self.steps * self.tokens_per_step
        return f" = {self.steps:,} steps, {tokens:,} tokens, {tokens * self.flops_per_token:.3g} FLOPs"


def make_plan(
    recipe: Source,
    data_settings: DataSettings,
    settings: TrainSettings,
    *,
    start: LoadedRun | None = None,
    trust_plugin: bool = False,
) -> Plan:
    """Plan the training of `recipe`: its model is built and run once on fake tensors, which have no data.

    Failed when that takes longer than TIMEOUT_SECONDS, or when a plug-in's code fails.
    """
    vocabulary = None if start else _vocabulary(data_settings.tokenizer)
    whole = resolve(recipe, vocab_size=vocabulary, trust_plugin=trust_plugin)
    with plugin_faults(whole, "planning the training of", seconds=TIMEOUT_SECONDS):
        return _planned(whole, settings, start)


def _planned(whole: Recipe, settings: TrainSettings, start: LoadedRun | None) -> Plan:
    if start and settings.context is None:
        settings = settings.model_copy(update={"context": start.config.resolved.context})
    check_trained(whole, settings.batch, settings.context)
    device = pick_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    context = settings.context or whole.context
    flops = training_flops_per_token(whole, context)
    tokens = settings.batch * settings.accumulation * context
    with FakeTensorMode():
        model = Decoder(whole)
        memory = _memory(model, settings, precision, context)
    check_memory(sum(memory.values()), f"training {whole.name!r} with these settings")
    counts = model.parameter_counts()
    return Plan(
        recipe=whole,
        settings=settings,
        device=str(device),
        precision=precision,
        parameters=counts["total"],
        parameters_non_embedding=counts["non_embedding"],
        parameters_active=counts["active"],
        flops_per_token=flops,
        tokens_per_step=tokens,
        steps=Budget.parse(settings.budget).steps(Usage(1, tokens, 0.0, tokens * flops)),
        memory_bytes=memory,
    )


def _memory(model: Decoder, settings: TrainSettings, precision: Precision, context: int) -> dict[str, int]:
    count = sum(p.numel() for p in model.parameters())
    by_muon = hidden_matrices(model) if settings.optimizer == "muon" else set()
    optimizer_elements = sum(p.numel() * (1 if name in by_muon else 2) for name, p in model.named_parameters())
    cast_parameters(model, precision)
    weight_bytes = 4 + 2 if precision == "bf16" else 4  # bytes for one weight, and again for its gradient
    return {
        "weights": count * weight_bytes,
        "gradients": count * weight_bytes,
        "optimizer": optimizer_elements * 4,
        "activations": _activations(model, settings.batch, context, precision),
    }


def _activations(model: Decoder, batch: int, context: int, precision: Precision) -> int:
    """Bytes that one forward pass saves for its backward pass, extrapolated from one and two sequences."""
    one, two = (_saved_bytes(model, torch.zeros(rows, context, dtype=torch.long), precision) for rows in (1, 2))
    return one + (batch - 1) * (two - one)


def _saved_bytes(model: Decoder, tokens: Tensor, precision: Precision) -> int:
    """Bytes that the forward pass of tokens (B, T) saves."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    saved: dict[int, tuple[int, Tensor]] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and not isinstance(tensor, nn.Parameter):
            saved[storage._cdata] = storage.nbytes(), tensor  # keep the tensor, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), autocast(precision, tokens.device):
        loss = model.loss(tokens, tokens).total
    del loss
    return sum(size for size, _ in saved.values())


def _vocabulary(tokenizer: str) -> int:
    """The vocabulary of a tokenizer by its name; a bpe-N learned from too short a text may come out smaller."""
    check_tokenizer_name(tokenizer)
    if file := tokenizer_file(tokenizer):
        return read_tokenizer(file).vocab_size
    return FIXED_VOCABULARIES.get(tokenizer) or int(tokenizer.removeprefix("bpe-"))


def _mega(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
