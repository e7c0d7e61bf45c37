"""Base class of mixers (attention and its alternatives), and the adapter of plain modules with `forward(x)`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.nn.core.cache import update_kv
from litmus.nn.core.forward_context import Buffers, ForwardContext, has_values
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part, not_implemented, takes_context


class MixerConfig(Part):
    """Base config of mixers, the parts of a layer that move information between tokens."""

    family: ClassVar[str] = "mixer"

    @classmethod
    def adapt(cls, module: nn.Module, layer: LayerContext) -> nn.Module:
        return as_mixer(module, layer)


class Mixer(nn.Module):
    """Base of mixers. One `forward` serves training, prefill, chunked prefill and token-by-token decoding.

    supports_rollback: the last tokens of a row can be removed from the cache by reducing its length, because slot i
    depends on token i alone. Speculative decoding needs it of every mixer.
    recomputes: each decoding step computes the whole prefix again.
    dense_weights: names of the `nn.Linear` attributes whose `.weight` is used directly as a matrix. They stay
    `nn.Linear` when decoding packs or quantizes the others. Any module can declare it.
    """

    supports_rollback: bool = False
    recomputes: bool = False
    dense_weights: tuple[str, ...] = ()

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Map x (B, T, dim) to (B, T, dim); with `ctx.cache`, write the tokens of x to the cache first."""
        raise not_implemented(self, "forward(x, ctx)")

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        """Buffers of zeros for `batch` rows of up to `capacity` tokens; their first dimension is the batch."""
        raise not_implemented(self, "new_cache(batch, capacity, device, dtype)")

    def kv_elements(self, capacity: int) -> int:
        """Number of elements in the cache of one row of `capacity` tokens; by default those of `new_cache`."""
        return cache_elements(self, capacity)


def cache_elements(module: Any, capacity: int) -> int:
    """Number of elements that `module.new_cache` allocates for one row of `capacity` tokens."""
    buffers = module.new_cache(1, capacity, device=torch.device("meta"), dtype=torch.float32)
    return sum(buffer.numel() for buffer in buffers.values())


def part_elements(part: Any, capacity: int) -> int:
    """The `kv_elements` of a part with a `new_cache`, or what `new_cache` allocates if it declares none."""
    declared = getattr(part, "kv_elements", None)
    return declared(capacity) if declared else cache_elements(part, capacity)


def as_mixer(module: nn.Module, layer: LayerContext) -> nn.Module:
    """A plug-in's module as a mixer or block; a module with `forward(x)` decodes by recomputation."""
    if not takes_context(module):
        return Recomputed(module, layer.dim)
    if not isinstance(module, Mixer):
        raise BadInput(
            f"{type(module).__name__}.forward takes a context, so that it decodes from ctx.cache, but it is no "
            "litmus.nn.Mixer; derive it from that and add a new_cache, or define forward(x) without a context"
        )
    return module


class Recomputed(Mixer):
    """A mixer or block with `forward(x)`, x (B, T, dim) of whole texts: decoding recomputes the whole prefix.

    The cache stores the inputs of all tokens so far. With padding or packed documents, each text is computed
    separately, texts of the same length in one batch.
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
            return self._per_text(x, ctx)
        inputs = update_kv(ctx.cache["inputs"], x, ctx).to(x.dtype)
        if ctx.start_pos is not None:
            return self.module(inputs)[:, ctx.start_pos :]
        outputs = torch.zeros_like(x)
        real = torch.ones_like(ctx.positions, dtype=torch.bool) if ctx.padding_mask is None else ctx.padding_mask
        lengths = torch.where(real, ctx.positions + 1, 0).amax(1)
        for row, length in enumerate(lengths.tolist()):
            if length:
                columns = real[row].nonzero()[:, 0]
                outputs[row, columns] = self.module(inputs[row : row + 1, :length])[0, ctx.positions[row, columns]]
        return outputs

    def _per_text(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """The output for padded rows and packed documents: each text is computed separately."""
        if not has_values(x):
            return self.module(x)
        batch, length = ctx.positions.shape
        row = torch.arange(batch, device=x.device)[:, None]
        text = row if ctx.document_ids is None else row * (length + 1) + _text_index(ctx.document_ids)
        tokens_of: dict[int, list[int]] = defaultdict(list)  # indices into the flattened batch, by text
        real = torch.ones_like(ctx.positions, dtype=torch.bool) if ctx.padding_mask is None else ctx.padding_mask
        for index, (number, is_real) in enumerate(
            zip(text.expand(batch, length).flatten().tolist(), real.flatten().tolist(), strict=True)
        ):
            if is_real:
                tokens_of[number].append(index)
        flat, by_length = x.flatten(0, 1), defaultdict(list)
        for tokens in tokens_of.values():
            by_length[len(tokens)].append(tokens)
        outputs = torch.zeros_like(flat)
        for texts in by_length.values():
            indices = torch.tensor(texts, device=x.device)
            outputs = outputs.index_put((indices,), self.module(flat[indices]).to(outputs.dtype))
        return outputs.view_as(x)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        return {"inputs": torch.zeros(batch, capacity, self.dim, device=device, dtype=dtype)}


def _text_index(document_ids: Tensor) -> Tensor:
    """Index (B, T) of each token's text in its row, from 0; texts are contiguous."""
    changes = document_ids[:, 1:] != document_ids[:, :-1]
    return F.pad(changes.cumsum(1), (1, 0))
