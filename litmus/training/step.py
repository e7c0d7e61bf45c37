"""One training step: forward and backward over its batches, a look at whether all is finite, an update."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.data import Batch, document_ids
from litmus.model import Decoder, Loss
from litmus.nn.core.aux_losses import Sums, micro_batch, total_of
from litmus.runtime.compile import compiled
from litmus.runtime.precision import MasterWeights, Precision, autocast
from litmus.training.optimizers import Optimizers, clip_gradients, gradient_norm, hidden_matrices
from litmus.training.settings import TrainSettings

Placed = tuple[Tensor, Tensor, Tensor | None]
"""Inputs, targets and documents of a batch, (B, T) each, on the device."""


class NotFinite(Exception):
    """A loss or gradient was infinite or not a number; the weights were left as they were before the step."""


@dataclass(frozen=True)
class StepFigures:
    """The training loss of a step in nats per token (smoothed, if labels are), its parts, and the unclipped norm."""

    loss: float
    parts: dict[str, float]
    gradient_norm: float


class Stepper:
    """Takes training steps on one model, whose parameters it holds in the given precision from now on."""

    def __init__(self, model: Decoder, settings: TrainSettings, precision: Precision, document_start: int) -> None:
        """`document_start` is the token that documents begin with, for when packed documents are isolated."""
        self.device = model.embedding.weight.device
        self.precision = precision
        self._model = model
        self.weights = MasterWeights(model, precision)
        self.optimizers = Optimizers(self.weights.named, hidden_matrices(model), settings)
        self._settings = settings
        self._document_start = document_start
        self._told = False  # whether the objective alone tells what its means are over
        self._loss = compiled(model.loss, self.device) if settings.compile else model.loss

    def step(self, batches: Sequence[Batch], lr: float) -> StepFigures:
        """Update the weights by the gradient of the mean loss over all `batches` at learning rate `lr`.

        Raises NotFinite before any weight changes.
        """
        losses = self.accumulate(batches)
        gradients = self.weights.gradients()
        # One transfer for all figures: each would wait for the device.
        *values, norm = torch.stack([*losses.values(), gradient_norm(gradients)]).tolist()
        figures = dict(zip(losses, values, strict=True))
        if not math.isfinite(norm) or not all(map(math.isfinite, values)):
            raise NotFinite(_diagnosis(figures["total"], norm, gradients, batches))
        clip_gradients(self.weights.named, norm, self._settings.clip)
        self.optimizers.step(lr)
        self.weights.copy_to_model()
        self._model.post_optimizer_step()
        return StepFigures(figures.pop("total"), figures, norm)

    def accumulate(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Add the gradient of the mean loss over all `batches` to the weights'; returns "total" and its parts."""
        totals = self._totals(batches) if len(batches) > 1 else None
        passes = [self._gradient(batch, totals) for batch in batches]
        return {name: torch.stack([losses[name] for losses in passes]).sum() for name in passes[0]}

    def _placed(self, batch: Batch) -> Placed:
        inputs = batch.inputs.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device, non_blocking=True)
        documents = document_ids(inputs, self._document_start) if self._settings.isolate_documents else None
        return inputs, targets, documents

    def _totals(self, batches: Sequence[Batch]) -> Sums:
        """What the means of the step's loss are over, all batches together.

        Where layers add terms to the loss, or the objective draws what it trains, only a forward pass tells; it leaves
        no trace, and the pass with gradients draws the same.
        """
        placed = [self._placed(batch) for batch in batches]
        known = [self._model.objective.counts(targets, documents) for _, targets, documents in placed]
        told = [counts for counts in known if counts is not None]
        if self._told and len(told) == len(known):
            return total_of(told)
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        random = _random_state(self.device)
        passes = [self._sums(batch) for batch in placed]
        _restore_random_state(self.device, random)
        for buffer, before in buffers:
            buffer.copy_(before)
        self._told = len(told) == len(known) and set(told[0]) == set(passes[0])
        return total_of(passes)

    @torch.no_grad()
    def _sums(self, batch: Placed) -> Sums:
        with micro_batch(None) as part:
            self._losses(self._model.loss, batch)
        return part.sums

    def _gradient(self, batch: Batch, totals: Sums | None) -> dict[str, Tensor]:
        """Add the batch's part of the gradient to the weights' gradients; returns its part of the losses."""
        with contextlib.nullcontext() if totals is None else micro_batch(totals):
            loss = self._losses(self._loss, self._placed(batch))
        loss.total.backward()
        self.weights.accumulate_gradients()
        return {name: value.detach().float() for name, value in {"total": loss.total, **loss.parts}.items()}

    def _losses(self, of: Callable[..., Loss], batch: Placed) -> Loss:
        inputs, targets, documents = batch
        with autocast(self.precision, self.device):
            return of(inputs, targets, documents=documents, label_smoothing=self._settings.label_smoothing)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def seed_for(seed: int, step: int, rank: int = 0) -> int:
    """The seed of a step's randomness, a function of its place alone: a resumed run has no random state to restore."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7])


def _diagnosis(loss: float, norm: float, gradients: dict[str, Tensor], batches: Sequence[Batch]) -> str:
    """What was not finite, in which batch, and the parameter with the largest gradient."""
    windows = [window for batch in batches for window in batch.windows]
    sizes = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    worst = max(sizes, key=lambda name: math.inf if math.isnan(sizes[name]) else sizes[name])
    return (
        f"loss {loss:.6g}, gradient norm {norm:.6g}, largest in {worst} ({sizes[worst]:.6g}), "
        f"on the batch with windows at {', '.join(map(str, windows))}"
    )
