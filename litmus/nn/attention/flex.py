"""Attention under a block mask on CUDA, by torch's flex_attention (Dong et al. 2024, arXiv 2412.05496).

A mask is stated as intervals of key indices that each query attends to. Blocks of keys outside of every interval are
skipped, forward and backward, and blocks inside an interval are not masked; no T x S mask is in memory.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litmus.nn.core.batch import use_reference
from litmus.nn.core.forward_context import ForwardContext, has_values

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

DEVICE = "cuda"
DTYPES = (torch.bfloat16, torch.float16)
"""In exact fp32 the matmuls of a Triton kernel do not use the tensor cores."""
WIDTHS = range(16, 257)
"""Widths of heads that the kernels take."""
MIN_QUERIES, MIN_QUERIES_OF_DOCUMENTS = 512, 2048
"""Queries per row from which flex_attention is faster than what it replaces (docs/results/flex_attention.md): windows
and compressed attention, and packed documents, whose mask fused attention takes too."""
BLOCK = 128
"""Queries and keys of a block."""
MAX_KERNELS = 256
"""Kernels compiled in a process, one per shape and dtype; torch's own limit of 8 would fall back to T x S scores."""

Interval = tuple[Tensor, Tensor]
"""The keys begin <= j < end of each query: begin and end (B or 1, T)."""


def serves(q: Tensor, values: int, ctx: ForwardContext, least: int | None = None) -> bool:
    """Whether flex_attention applies to q (B, T, H, D) and values of that width: long rows, 16 bits, no cache.

    least: queries per row from which it does, `MIN_QUERIES` by default.
    """
    if use_reference() or q.device.type != DEVICE or not has_values(q):
        return False
    if not (torch.compiler.is_compiling() or is_installed()):
        return False
    plain = ctx.cache is None and ctx.padding_mask is None and ctx.observed is None
    fits = q.shape[1] >= (least or MIN_QUERIES) and q.shape[-1] in WIDTHS and values in WIDTHS
    return plain and fits and _dtype(q) in DTYPES


@functools.cache
def is_installed() -> bool:
    """Whether Triton and the C compiler that it needs are installed."""
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(name and shutil.which(name) for name in compilers)


def first_keys(ctx: ForwardContext) -> Tensor:
    """Index (B or 1, T) of the first token of each query's text, in a pass without cache and padding."""
    index = torch.arange(ctx.positions.shape[1], device=ctx.positions.device)
    return torch.zeros_like(index)[None] if ctx.document_ids is None else index - ctx.positions


def attend_intervals(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ctx: ForwardContext,
    name: Any,
    intervals: Callable[[], Sequence[Interval]],
    query_scale: Tensor | None = None,
) -> Tensor:
    """softmax(query_scale · q·k / sqrt(D)) v over the keys in the intervals; q (B, T, H, D), k (B, S, G, D).

    `name` identifies the intervals among the masks of a pass, which the layers share.
    T and S are padded to powers of two, so that texts of many lengths need few kernels. Returns (B, T, H, E).
    """
    from torch.nn.attention.flex_attention import flex_attention

    batch, queries, keys = *q.shape[:2], k.shape[1]
    if query_scale is not None:
        q = (q * query_scale[..., None]).to(q.dtype)
    mask = ctx.memo(("block mask", name, batch, keys), lambda: block_mask(intervals(), batch, keys))
    dtype, scale = _dtype(q), q.shape[-1] ** -0.5
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, _padded(x.shape[1]) - x.shape[1])) for x in (q, k, v))
    q, k, v = (x.to(dtype).transpose(1, 2) for x in (q, k, v))
    options = {"block_mask": mask, "scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    if torch.compiler.is_compiling() or not q.is_cuda:  # on a CPU, for tests: by its definition
        y = flex_attention(q, k, v, **options)
    else:
        with torch._dynamo.config.patch(recompile_limit=MAX_KERNELS):
            y = _compiled()(q, k, v, **options)
    return y.transpose(1, 2)[:, :queries]


def serves_documents(q: Tensor, values: int, ctx: ForwardContext) -> bool:
    """Whether `attend_documents` applies to q (B, T, H, D) and values of that width: packed documents in long rows."""
    return ctx.document_ids is not None and serves(q, values, ctx, MIN_QUERIES_OF_DOCUMENTS)


def attend_documents(q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext, query_scale: Tensor | None = None) -> Tensor:
    """Causal attention within each packed document; arguments and result as of `attend_intervals`."""

    def intervals() -> list[Interval]:
        first = first_keys(ctx)
        return [(first, torch.arange(1, first.shape[1] + 1, device=first.device)[None])]

    return attend_intervals(q, k, v, ctx, "causal", intervals, query_scale)


def block_mask(intervals: Sequence[Interval], batch: int, keys: int) -> BlockMask:
    """The block mask of `intervals` of `keys` keys, padded; without create_block_mask's T x S tensors."""
    from torch.nn.attention.flex_attention import BlockMask, or_masks

    queries = intervals[0][1].shape[1]
    device, blocks = intervals[0][1].device, _padded(keys) // BLOCK
    starts = torch.arange(blocks, device=device) * BLOCK
    # Padding attends to no key. It is no F.pad: within a compiled model, inductor would fuse that into the kernel,
    # which torch 2.11 fails to generate.
    index = torch.arange(_padded(queries), device=device)
    some: Any = False
    full: Any = False
    masks = []
    for bounds in intervals:
        begin, end = (torch.where(index < queries, x.int()[:, index.clamp(max=queries - 1)], 0) for x in bounds)
        first, after = begin[..., None], end[..., None]
        overlaps = (first < starts + BLOCK) & (after > starts) & (first < after)
        covers = (first <= starts) & (after >= starts + BLOCK)
        some = some | overlaps.unflatten(1, (-1, BLOCK)).any(2)
        full = full | covers.unflatten(1, (-1, BLOCK)).all(2)
        masks.append(_inside(*(x.expand(batch, -1).contiguous() for x in (begin, end))))
    return BlockMask.from_kv_blocks(
        *_listed(some & ~full),
        *_listed(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=masks[0] if len(masks) == 1 else or_masks(*masks),
    )


def _inside(begin: Tensor, end: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """flex_attention's mask function of one interval, begin and end (B, T)."""
    return lambda b, h, query, key: (key >= begin[b, query]) & (key < end[b, query])


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """For blocks (B or 1, N, M): the number of those set (B or 1, 1, N), and their indices, before those of others."""
    blocks = blocks[:, None]
    return blocks.sum(-1, dtype=torch.int32), blocks.int().argsort(dim=-1, descending=True, stable=True).int()


def _padded(length: int) -> int:
    return max(BLOCK, 1 << (length - 1).bit_length())


def _dtype(q: Tensor) -> torch.dtype:
    """The dtype of the products: autocast covers fused attention, but not flex_attention."""
    device = q.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else q.dtype


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
