"""The objective of worker models: loss at the workers of the memory, and at sampled tokens between them."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from litmus.errors import BadInput
from litmus.nn.core.aux_losses import AuxLosses, Sums, scored, share_of_step
from litmus.nn.core.batch import IGNORED, Batch
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.objectives.objective import LanguageModel, Loss, Objective, ObjectiveConfig, head_nats, with_aux_losses
from litmus.nn.worker.block import WorkerConfig, workers
from litmus.nn.worker.streams import QuerySet, sampled


class WorkerObjectiveConfig(ObjectiveConfig):
    """`queries`: number of scored tokens besides the workers of the memory, as a fraction of the number of workers."""

    kind: Literal["worker"] = "worker"
    queries: float = Field(1.0, ge=0, le=1)

    def build(self, layer: LayerContext) -> Objective:
        if not isinstance(layer.block, WorkerConfig):
            kind = getattr(layer.block, "kind", None)
            raise BadInput(f"objective 'worker' trains worker blocks, and the layers are {kind!r}; valid: 'worker'")
        return WorkerObjective(layer.block, self.queries)


class WorkerObjective(Objective):
    """Next-token cross-entropy, in training over sampled tokens, in evaluation over all.

    In decoding, queries have every distance from the last worker. Scoring only the workers of the memory would train
    one distance; therefore each row also scores tokens at one other position of the interval, sampled per row. With a
    random phase the workers' position in the interval is sampled too, so that absolute position carries no information.
    """

    def __init__(self, block: WorkerConfig, queries: float) -> None:
        super().__init__()
        self.interval, self.random = block.interval, block.phase == "random"
        self.stride = block.interval * round(1 / queries) if queries and block.interval > 1 else None
        self.scored_share = 1 / self.interval + (1 / self.stride if self.stride else 0)

    def forward(self, model: LanguageModel, batch: Batch, label_smoothing: float = 0.0) -> Loss:
        if not self.training:
            return super().forward(model, batch, label_smoothing)
        targets = batch.scored_targets
        aux_losses = AuxLosses.before(batch)
        query_set = self.draw(model.forward_context(batch, aux_losses=aux_losses))
        hidden = model.hidden(batch, aux_losses=aux_losses, queries=query_set)  # (B, N, dim)
        targets = torch.cat([group.per_token(targets, IGNORED) for group in query_set.groups], dim=1)
        nats = head_nats(model, hidden, targets, label_smoothing)
        nats = share_of_step("next_token", nats, scored(targets))
        return with_aux_losses(Loss(nats, {"next_token": nats}), aux_losses)

    def counts(self, batch: Batch) -> Sums | None:
        return None if self.training else super().counts(batch)

    def draw(self, ctx: ForwardContext) -> QuerySet:
        """Sample the workers of the memory and the other scored tokens, independently for each row.

        Random numbers are drawn row by row, so that on a CPU they do not depend on how rows are split into batches.
        """
        batch, device = len(ctx.positions), ctx.positions.device
        random = torch.randint(1 << 32, (batch, 3), device=device)
        phase = torch.full((batch, 1), self.interval - 1, device=device)
        if self.random:
            phase = random[:, :1] % self.interval
        chosen = workers(ctx, self.interval, phase)
        if self.stride is None:
            return sampled(ctx, chosen, self.interval)
        distance = 1 + random[:, 1:2] % (self.interval - 1)
        intervals = random[:, 2:] % (self.stride // self.interval)
        offset = (phase + distance + self.interval * intervals) % self.stride
        return sampled(ctx, chosen, self.interval, ctx.positions % self.stride == offset, self.stride)
