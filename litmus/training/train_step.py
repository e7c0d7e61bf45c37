"""One training step: forward and backward passes over its batches, a check that all is finite, an update."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.data.sampler import NOT_SCORED, PackedBatch, SampledBatch, document_ids
from litmus.model import Decoder, Loss
from litmus.nn import Batch
from litmus.nn.core.aux_losses import Sums, micro_batch, total_of
from litmus.runtime.compile import compiled
from litmus.runtime.precision import MasterWeights, Precision, autocast
from litmus.training.optimizers import Optimizers, clip_gradients, gradient_norm, hidden_matrices
from litmus.training.settings import TrainSettings


class NotFinite(Exception):
    """A loss or gradient is infinite or NaN; the weights are unchanged."""


@dataclass(frozen=True)
class StepStats:
    """Training loss of a step in nats per token, with label smoothing if that is on; its parts; the unclipped norm."""

    loss: float
    parts: dict[str, float]
    gradient_norm: float


class TrainStep:
    """Makes training steps on one model, whose parameters it converts to the given precision."""

    def __init__(self, model: Decoder, settings: TrainSettings, precision: Precision, document_start: int) -> None:
        """`document_start`: the first token of every document, by which packed documents are isolated."""
        self.device = model.device
        self.precision = precision
        self._model = model
        self.weights = MasterWeights(model, precision)
        self.optimizers = Optimizers(self.weights.named, hidden_matrices(model), settings)
        self._settings = settings
        self._document_start = document_start
        self._counts_known = False  # whether objective.counts alone gives the totals
        self._loss = compiled(model.loss, self.device) if settings.compile else model.loss

    def step(self, batches: Sequence[SampledBatch | PackedBatch], lr: float) -> StepStats:
        """Update the weights by the gradient of the mean loss over all `batches` at learning rate `lr`.

        Raises NotFinite before any weight changes.
        """
        losses = self.accumulate(batches)
        gradients = self.weights.gradients()
        # One transfer for all numbers, as each transfer waits for the device.
        *values, norm = torch.stack([*losses.values(), gradient_norm(gradients)]).tolist()
        stats = dict(zip(losses, values, strict=True))
        if not math.isfinite(norm) or not all(map(math.isfinite, values)):
            raise NotFinite(_diagnosis(stats["total"], norm, gradients, batches))
        clip_gradients(self.weights.named, norm, self._settings.clip)
        self.optimizers.step(lr)
        self.weights.copy_to_model()
        self._model.post_optimizer_step()
        return StepStats(stats.pop("total"), stats, norm)

    def accumulate(self, batches: Sequence[SampledBatch | PackedBatch]) -> dict[str, Tensor]:
        """Add the gradient of the mean loss over `batches` to the gradients; returns it as "total", with its parts."""
        totals = self._totals(batches) if len(batches) > 1 else None
        passes = [self._backward(batch, totals) for batch in batches]
        return {name: torch.stack([losses[name] for losses in passes]).sum() for name in passes[0]}

    def _to_device(self, batch: SampledBatch | PackedBatch) -> Batch:
        inputs = batch.inputs.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device, non_blocking=True)
        documents = None
        if isinstance(batch, PackedBatch):
            documents = batch.documents.to(self.device, non_blocking=True)
        elif self._settings.isolate_documents:
            documents = document_ids(inputs, self._document_start)
        return Batch(inputs, targets, documents, max_scored=_max_scored(batch.targets))

    def _totals(self, batches: Sequence[SampledBatch | PackedBatch]) -> Sums:
        """The denominators of the means in the step's loss, summed over all batches.

        If layers add terms to the loss, or the objective samples its targets, they are known only after a forward pass.
        That pass restores the random state and the buffers, so that the pass with gradients samples the same.
        """
        placed = [self._to_device(batch) for batch in batches]
        known = [self._model.objective.counts(batch) for batch in placed]
        given = [counts for counts in known if counts is not None]
        if self._counts_known and len(given) == len(known):
            return total_of(given)
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            passes = [self._sums(batch) for batch in placed]
        for buffer, before in buffers:
            buffer.copy_(before)
        self._counts_known = len(given) == len(known) and set(given[0]) == set(passes[0])
        return total_of(passes)

    @torch.no_grad()
    def _sums(self, batch: Batch) -> Sums:
        with micro_batch(None) as part:
            self._losses(self._model.loss, batch)
        return part.sums

    def _backward(self, batch: SampledBatch | PackedBatch, totals: Sums | None) -> dict[str, Tensor]:
        """Add the gradient of a batch's part of the loss; returns that part of the loss and of its terms."""
        with contextlib.nullcontext() if totals is None else micro_batch(totals):
            loss = self._losses(self._loss, self._to_device(batch))
        loss.total.backward()
        self.weights.accumulate_gradients()
        return {name: value.detach().float() for name, value in {"total": loss.total, **loss.parts}.items()}

    def _losses(self, of: Callable[..., Loss], batch: Batch) -> Loss:
        with autocast(self.precision, self.device):
            return of(batch, label_smoothing=self._settings.label_smoothing)


def _max_scored(targets: Tensor) -> int | None:
    """The number of scored targets (B, T), rounded up to a multiple of an eighth of all; None if all are scored."""
    scored, part = int((targets != NOT_SCORED).sum()), -(-targets.numel() // 8)
    return None if scored == targets.numel() else max(-(-scored // part), 1) * part


def seed_for(seed: int, step: int, rank: int = 0) -> int:
    """The random seed of a step: a function of its number, so that a resumed run has no random state to restore."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7])


def _diagnosis(
    loss: float, norm: float, gradients: dict[str, Tensor], batches: Sequence[SampledBatch | PackedBatch]
) -> str:
    """Loss, gradient norm, the parameter with the largest gradient, and the windows of the batch."""
    windows = [window for batch in batches for window in batch.windows]
    sizes = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    worst = max(sizes, key=lambda name: math.inf if math.isnan(sizes[name]) else sizes[name])
    return (
        f"loss {loss:.6g}, gradient norm {norm:.6g}, largest in {worst} ({sizes[worst]:.6g}), "
        f"on the batch with windows at {', '.join(map(str, windows))}"
    )
