"""Decoding over a long cache that all heads share, on a GPU: its keys are split over many programs and merged.

One query per row keeps one program busy while the rest of the GPU waits; shares of the keys keep all of them busy, and
their results merge exactly by their log-sum-exps (flash-decoding, Dao et al. 2023). Fused attention serves keys of up
to 256 numbers; latents of DeepSeek's size (512 + 64) need this.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

FUSED_WIDTH = 256
"""The widest keys that fused attention takes on CUDA."""
BLOCK_HEADS, BLOCK_KEYS = 16, 32
"""Heads and keys of one tile: its weighted mean of 512 numbers per head still fits the registers of a program."""
LEAST_SHARE = 128
PROGRAMS = 256
"""About as many programs as keep a large GPU busy."""


@functools.cache
def is_installed() -> bool:
    """Whether Triton is there, as it is with PyTorch's builds for CUDA."""
    return importlib.util.find_spec("triton") is not None


def serves(q: Tensor) -> bool:
    """Whether queries (B, T, H, D) are for this kernel: one per row, on CUDA, too wide for fused attention."""
    few = q.shape[1] == 1 and q.shape[-1] > FUSED_WIDTH
    return few and q.is_cuda and q.dtype != torch.float64 and not torch.is_grad_enabled() and is_installed()


def attend_split(q: Tensor, keys: Tensor, values: int, visible: Tensor, scale: float) -> Tensor:
    """softmax(scale · q·k) k[:values] over the first `visible` (B,) keys of each row, without gradients.

    q (B, H, D), keys (B, S, D) with the last dimension contiguous; returns (B, H, values).
    """
    from litmus.nn.attention.split_kv_kernel import partial_attention

    batch, heads, width = q.shape
    q = q.contiguous()
    groups = -(-heads // BLOCK_HEADS)
    share = _share(keys.shape[1], batch * groups)
    splits = -(-keys.shape[1] // share)
    out = torch.empty(batch, heads, splits, values, device=q.device, dtype=torch.float32)
    lse = torch.empty(batch, heads, splits, device=q.device, dtype=torch.float32)
    partial_attention[(batch, groups, splits)](
        q,
        keys,
        visible,
        out,
        lse,
        scale,
        heads,
        splits,
        share,
        q.stride(0),
        q.stride(1),
        keys.stride(0),
        keys.stride(1),
        RANK=values,
        ROPE=width - values,
        RANK_BLOCK=max(16, _power_of_two(values)),
        ROPE_BLOCK=max(16, _power_of_two(width - values)),
        BLOCK_HEADS=BLOCK_HEADS,
        BLOCK_KEYS=BLOCK_KEYS,
        num_stages=2 if q.element_size() == 2 else 1,  # as many tiles at once as the smaller GPUs have room for
    )
    return (lse.softmax(-1)[..., None] * out).sum(2).to(q.dtype)


def _share(keys: int, programs: int) -> int:
    """Keys per split: so few that all programs together keep the GPU busy, a multiple of a block."""
    splits = max(1, PROGRAMS // programs)
    share = max(LEAST_SHARE, -(-keys // splits))
    return -(-share // BLOCK_KEYS) * BLOCK_KEYS


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
