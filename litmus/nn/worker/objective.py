"""Training of worker models: loss at the memory's workers, and at tokens asked in between, from every distance."""

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
from litmus.nn.worker.streams import QuerySet, counting, sampled


class WorkerObjectiveConfig(ObjectiveConfig):
    """`queries`: how many tokens are asked besides the memory's workers, as a share of their number."""

    kind: Literal["worker"] = "worker"
    queries: float = Field(1.0, ge=0, le=1)

    def build(self, layer: LayerContext) -> Objective:
        if not isinstance(layer.block, WorkerConfig):
            kind = getattr(layer.block, "kind", None)
            raise BadInput(f"objective 'worker' trains worker blocks, and the layers are {kind!r}; valid: 'worker'")
        return WorkerObjective(layer.block, self.queries)


class WorkerObjective(Objective):
    """Next-token cross-entropy, in training over the tokens drawn, in evaluation over all.

    In decoding a token is asked at every distance from the last worker. Training only the memory's workers would show
    the model one of these; so each row also asks tokens at one other place of the interval, drawn anew. With a random
    phase the workers' own place is drawn too, and position as such says nothing.
    """

    def __init__(self, block: WorkerConfig, queries: float) -> None:
        super().__init__()
        self.interval, self.random = block.interval, block.phase == "random"
        self.stride = block.interval * round(1 / queries) if queries and block.interval > 1 else None
        self.scored_share = 1 / self.interval + (1 / self.stride if self.stride else 0)

    def forward(self, model: LanguageModel, batch: Batch, label_smoothing: float = 0.0) -> Loss:
        if not self.training:
            return super().forward(model, batch, label_smoothing)
        query_set = self.draw(model.forward_context(batch))
        targets = batch.scored_targets
        aux_losses = counting(AuxLosses.before(targets), query_set)
        hidden = model.hidden(batch, aux_losses=aux_losses)  # (B, N, dim)
        targets = torch.cat([group.per_token(targets, IGNORED) for group in query_set.groups], dim=1)
        nats = head_nats(model, hidden, targets, label_smoothing)
        nats = share_of_step("next_token", nats, scored(targets))
        return with_aux_losses(Loss(nats, {"next_token": nats}), aux_losses)

    def counts(self, batch: Batch) -> Sums | None:
        return None if self.training else super().counts(batch)

    def draw(self, ctx: ForwardContext) -> QuerySet:
        """Who is a worker in the memory and who is asked besides, a new draw for each row.

        All of a row is drawn before the next one, so that on a CPU it does not depend on how rows are put into batches.
        """
        batch, device = len(ctx.positions), ctx.positions.device
        drawn_numbers = torch.randint(1 << 32, (batch, 3), device=device)
        phase = torch.full((batch, 1), self.interval - 1, device=device)
        if self.random:
            phase = drawn_numbers[:, :1] % self.interval
        chosen = workers(ctx, self.interval, phase)
        if self.stride is None:
            return sampled(ctx, chosen, self.interval)
        away = 1 + drawn_numbers[:, 1:2] % (self.interval - 1)
        intervals = drawn_numbers[:, 2:] % (self.stride // self.interval)
        place = (phase + away + self.interval * intervals) % self.stride
        return sampled(ctx, chosen, self.interval, ctx.positions % self.stride == place, self.stride)
