"""One training step: forward and backward over its batches, a look at whether all is finite, an update."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.data import Batch, document_ids
from litmus.model import Decoder
from litmus.training.compiling import compiled
from litmus.training.optimizers import Optimizers, clip_gradients, gradient_norm, hidden_matrices
from litmus.training.precision import Precision, Weights, autocast
from litmus.training.settings import TrainSettings


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

    def __init__(self, model: Decoder, settings: TrainSettings, precision: Precision, document_end: int) -> None:
        """`document_end` is the token that ends documents, for when packed documents are isolated."""
        self.device = model.embedding.weight.device
        self.precision = precision
        self._model = model
        self.weights = Weights(model, precision)
        self.optimizers = Optimizers(self.weights.named, hidden_matrices(model), settings)
        self._settings = settings
        self._document_end = document_end
        self._loss = compiled(model.loss, self.device) if settings.compile else model.loss

    def step(self, batches: Sequence[Batch], lr: float) -> StepFigures:
        """Update the weights by the mean gradient of `batches` at learning rate `lr`, or raise NotFinite."""
        passes = [self._gradient(batch, 1 / len(batches)) for batch in batches]
        gradients = self.weights.gradients()
        norm_here = gradient_norm(gradients)
        names = list(passes[0])
        measured = torch.stack([torch.stack([figures[name] for figures in passes]).mean() for name in names])
        # One transfer for all figures: each would wait for the device.
        *values, norm = torch.cat((measured, norm_here[None])).tolist()
        figures = dict(zip(names, values, strict=True))
        if not math.isfinite(norm) or not all(map(math.isfinite, values)):
            raise NotFinite(_diagnosis(figures["total"], norm, gradients, batches))
        clip_gradients(self.weights.named, norm, self._settings.clip)
        self.optimizers.step(lr)
        self.weights.publish()
        self._model.after_step()
        return StepFigures(figures.pop("total"), figures, norm)

    def _gradient(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Add `share` of the batch's gradient to the weights' gradients; returns its losses."""
        inputs = batch.inputs.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device, non_blocking=True)
        documents = document_ids(inputs, self._document_end) if self._settings.isolate_documents else None
        with autocast(self.precision, self.device):
            loss = self._loss(inputs, targets, documents=documents, label_smoothing=self._settings.label_smoothing)
        (loss.total * share).backward()
        self.weights.collect()
        return {name: value.detach().float() for name, value in {"total": loss.total, **loss.parts}.items()}


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
