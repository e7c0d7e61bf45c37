"""Multi-token prediction: auxiliary training losses on tokens further ahead; the model's logits are unchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.nn.core.aux_losses import AuxLosses, Sums, scored, share_of_step
from litmus.nn.core.batch import IGNORED, Batch
from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer
from litmus.nn.core.registry import not_implemented
from litmus.nn.layers.linear import linear
from litmus.nn.objectives.objective import LanguageModel, Loss, Objective, ObjectiveConfig, head_nats, with_aux_losses


class MtpBaseConfig(ObjectiveConfig):
    """Predict `depth` tokens beyond the next one; their mean loss has weight `weight`."""

    depth: int = Field(1, ge=1)
    weight: float = Field(0.3, gt=0)


class MtpConfig(MtpBaseConfig):
    """The modules of DeepSeek-V3; the layer in a module has the config of the model's last layer."""

    kind: Literal["mtp"] = "mtp"

    def build(self, layer: LayerContext) -> Objective:
        return SequentialMtp(self, layer)


class ParallelMtpConfig(MtpBaseConfig):
    kind: Literal["mtp_parallel"] = "mtp_parallel"

    def build(self, layer: LayerContext) -> Objective:
        return ParallelMtp(self, layer)


class MtpObjective(Objective):
    """Next-token cross-entropy + weight · mean over k = 1 .. depth of the cross-entropy of the token k + 1 ahead.

    The loss terms are named "next_token", "mtp_1", "mtp_2", ...
    """

    def __init__(self, config: MtpBaseConfig, layer: LayerContext) -> None:
        super().__init__()
        if config.depth >= layer.context:
            raise BadInput(
                f"objective {config.kind!r} predicts depth = {config.depth} tokens beyond the next, but a context of "
                f"{layer.context} tokens has {layer.context - 1} of them; a depth below the context is valid"
            )
        self.depth, self.weight = config.depth, config.weight

    def forward(self, model: LanguageModel, batch: Batch, label_smoothing: float = 0.0) -> Loss:
        targets = batch.scored_targets
        aux_losses = AuxLosses.before(batch)
        hidden = model.hidden(batch, aux_losses=aux_losses)
        nats = head_nats(model, hidden, targets, label_smoothing, max_scored=batch.max_scored)
        nats = share_of_step("next_token", nats, scored(targets))
        total, parts = nats, {"next_token": nats}
        for number in range(1, self.depth + 1):
            further = targets_ahead(batch, number)
            ctx = model.forward_context(batch, aux_losses=aux_losses.counting(replace(batch, targets=further)))
            hidden, vectors = self.predict_ahead(number, model, hidden, batch.tokens.roll(-number, 1), ctx)
            nats = head_nats(model, vectors, further, label_smoothing, max_scored=batch.max_scored)
            nats = share_of_step(f"mtp_{number}", nats, scored(further))
            total = total + self.weight / self.depth * nats
            parts[f"mtp_{number}"] = nats
        return with_aux_losses(Loss(total, parts), aux_losses)

    def counts(self, batch: Batch) -> Sums | None:
        further = {f"mtp_{k}": scored(targets_ahead(batch, k)) for k in range(1, self.depth + 1)}
        return {"next_token": scored(batch.scored_targets), **further}

    def predict_ahead(
        self, number: int, model: LanguageModel, hidden: Tensor, tokens: Tensor, ctx: ForwardContext
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, dim) for the next call, and those for the head to predict the token number + 1 ahead.

        tokens: (B, T) the tokens `number` ahead of each token; beyond the end of a row arbitrary, and not scored.
        """
        raise not_implemented(self, "predict_ahead(number, model, hidden, tokens, ctx)")

    def draft_buffers(self, number: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        """The cache with which `predict_ahead(number, ...)` decodes one row; by default it reads no earlier token."""
        return {}


class SequentialMtp(MtpObjective):
    """Sequential modules of DeepSeek-V3 (arXiv 2412.19437, section 2.2); each predicts one token further.

    h'_i = M [norm(h_i) ; norm(Emb(t_{i+k}))] -> one layer -> norm -> the model's head predicts t_{i+k+1}. The input
    of the first module is that of the model's head.
    """

    def __init__(self, config: MtpConfig, layer: LayerContext) -> None:
        super().__init__(config, layer)
        self.mtp_layers = nn.ModuleList(MtpModule(layer) for _ in range(config.depth))

    def predict_ahead(
        self, number: int, model: LanguageModel, hidden: Tensor, tokens: Tensor, ctx: ForwardContext
    ) -> tuple[Tensor, Tensor]:
        module: MtpModule = self.mtp_layers[number - 1]  # type: ignore[assignment]
        hidden = module(hidden, model.embed(tokens, ctx.with_cache(None)), ctx)
        return hidden, module.norm(hidden)

    def draft_buffers(self, number: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        layer: Mixer = self.mtp_layers[number - 1].layer  # type: ignore[assignment]
        return layer.new_cache(1, capacity, device=device, dtype=dtype)


class MtpModule(nn.Module):
    """M [norm(h) ; norm(e)], then one layer, for hidden states h and embeddings e (B, T, dim)."""

    def __init__(self, layer: LayerContext) -> None:
        super().__init__()
        self.hidden_norm = layer.norm()
        self.embedding_norm = layer.norm()
        self.join = linear(2 * layer.dim, layer.dim)
        self.layer = layer.new_layer()
        self.norm = layer.norm()

    def forward(self, hidden: Tensor, embedded: Tensor, ctx: ForwardContext) -> Tensor:
        joined = torch.cat((self.hidden_norm(hidden), self.embedding_norm(embedded)), dim=-1)
        return self.layer(self.join(joined), ctx)


class ParallelMtp(MtpObjective):
    """One linear map per token ahead, on the input h of the model's head: head(h + silu(W_k h)).

    As in Medusa (Cai et al. 2024, arXiv 2401.10774), but with the model's head shared by all.
    """

    def __init__(self, config: ParallelMtpConfig, layer: LayerContext) -> None:
        super().__init__(config, layer)
        self.maps = nn.ModuleList(linear(layer.dim, layer.dim) for _ in range(config.depth))

    def predict_ahead(
        self, number: int, model: LanguageModel, hidden: Tensor, tokens: Tensor, ctx: ForwardContext
    ) -> tuple[Tensor, Tensor]:
        return hidden, hidden + F.silu(self.maps[number - 1](hidden))


def targets_ahead(batch: Batch, number: int) -> Tensor:
    """The targets (B, T) `number` tokens further; -100 if the row or the token's document ends before."""
    targets, documents = batch.scored_targets, batch.document_ids
    further = targets.roll(-number, 1)
    further[:, max(0, targets.shape[1] - number) :] = IGNORED
    return further if documents is None else further.masked_fill(documents.roll(-number, 1) != documents, IGNORED)
