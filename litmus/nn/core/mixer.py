"""Mixers move information between tokens and say what they cache; plain modules with `forward(x)` as mixers."""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.nn.core.cache import update_kv
from litmus.nn.core.forward_context import Buffers, ForwardContext, has_values
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part, not_implemented, takes_context


class MixerConfig(Part):
    """How a layer moves information between tokens."""

    family: ClassVar[str] = "mixer"

    @classmethod
    def adapt(cls, module: nn.Module, layer: LayerContext) -> nn.Module:
        return as_mixer(module, layer)


class Mixer(nn.Module):
    """Base of mixers. One `forward` serves training, prefill, chunked prefill and token-by-token decoding.

    `supports_rollback` says that a row of its cache forgets its last tokens by going back in length, since slot i holds
    token i and nothing else remembers it; speculative decoding needs that of every mixer.

    `recomputes` says that each decoding step computes the whole prefix again.

    `dense_weights` names the `nn.Linear` attributes whose `.weight` is read as a matrix. They stay `nn.Linear` where
    decoding packs or quantizes the others. Any module may declare it.
    """

    supports_rollback: bool = False
    recomputes: bool = False
    dense_weights: tuple[str, ...] = ()

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Mix x (B, T, dim) into the same shape; with `ctx.cache`, write this step's tokens there first."""
        raise not_implemented(self, "forward(x, ctx)")

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        """Static buffers for `batch` rows of up to `capacity` tokens, zeroed; every first dimension is the row."""
        raise not_implemented(self, "new_cache(batch, capacity, device, dtype)")

    def kv_elements(self, capacity: int) -> int:
        """How many numbers the cache of one row of `capacity` tokens takes; by default as many as the buffers have."""
        buffers = self.new_cache(1, capacity, device=torch.device("meta"), dtype=torch.float32)
        return sum(buffer.numel() for buffer in buffers.values())


def as_mixer(module: nn.Module, layer: LayerContext) -> nn.Module:
    """A plug-in's module as a mixer or block: one with `forward(x)` alone decodes by recomputation."""
    if not takes_context(module):
        return Recomputed(module, layer.dim)
    if not callable(getattr(module, "new_cache", None)):
        raise BadInput(
            f"{type(module).__name__}.forward takes a context, so that it decodes from ctx.cache, but it has no "
            "new_cache; derive it from litmus.nn.Mixer and add one, or let forward take x alone"
        )
    return module


class Recomputed(Mixer):
    """A mixer or block with `forward(x)`, x (B, T, dim) of whole texts: decoding recomputes the whole prefix.

    The cache holds the inputs of all tokens so far. Texts of padded or packed rows are computed apart, those of one
    length together.
    """

    supports_rollback = True
    recomputes = True

    def __init__(self, module: nn.Module, dim: int) -> None:
        super().__init__()
        self.module = module
        self.dim = dim

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        if ctx.cache is None:
            if ctx.padding_mask is None and ctx.document_ids is None:
                return self.module(x)
            return self._apart(x, ctx)
        inputs = update_kv(ctx.cache["inputs"], x, ctx).to(x.dtype)
        if ctx.start_pos is not None:
            return self.module(inputs)[:, ctx.start_pos :]
        outputs = torch.zeros_like(x)
        real = torch.ones_like(ctx.positions, dtype=torch.bool) if ctx.padding_mask is None else ctx.padding_mask
        lengths = torch.where(real, ctx.positions + 1, 0).amax(1)
        for row, length in enumerate(lengths.tolist()):
            if length:
                places = real[row].nonzero()[:, 0]
                outputs[row, places] = self.module(inputs[row : row + 1, :length])[0, ctx.positions[row, places]]
        return outputs

    def _apart(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Each text of rows that are padded or packed by itself."""
        if not has_values(x):
            return self.module(x)
        batch, length = ctx.positions.shape
        row = torch.arange(batch, device=x.device)[:, None]
        text = row if ctx.document_ids is None else row * (length + 1) + _numbered(ctx.document_ids)
        places: dict[int, list[int]] = defaultdict(list)
        real = torch.ones_like(ctx.positions, dtype=torch.bool) if ctx.padding_mask is None else ctx.padding_mask
        for place, (number, counts) in enumerate(
            zip(text.expand(batch, length).flatten().tolist(), real.flatten().tolist(), strict=True)
        ):
            if counts:
                places[number].append(place)
        flat, by_length = x.flatten(0, 1), defaultdict(list)
        for of_text in places.values():
            by_length[len(of_text)].append(of_text)
        outputs = torch.zeros_like(flat)
        for texts in by_length.values():
            index = torch.tensor(texts, device=x.device)
            outputs = outputs.index_put((index,), self.module(flat[index]).to(outputs.dtype))
        return outputs.view_as(x)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        return {"inputs": torch.zeros(batch, capacity, self.dim, device=device, dtype=dtype)}


def _numbered(document_ids: Tensor) -> Tensor:
    """Which text of its row each token belongs to, from 0; texts are contiguous."""
    changes = document_ids[:, 1:] != document_ids[:, :-1]
    return F.pad(changes.cumsum(1), (1, 0))
