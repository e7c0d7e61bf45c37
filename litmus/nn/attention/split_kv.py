"""Flash-decoding (Dao et al. 2023) on a GPU, for a long cache of keys that all heads share (MLA).

With one query per row a kernel without splits would run in few programs and leave most of the GPU idle. Here the keys
are split over many programs, whose results are merged exactly by their log-sum-exps. Fused attention supports keys up
to a width of 256; the latents of DeepSeek (512 + 64) need this kernel.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

FUSED_WIDTH = 256
"""Maximum width of keys in fused attention on CUDA."""
BLOCK_HEADS, BLOCK_KEYS = 16, 32
"""Heads and keys of one tile; its accumulator of 512 elements per head fits into the registers of a program."""
MIN_KEYS_PER_SPLIT = 128
TARGET_PROGRAMS = 256
"""Number of programs that occupies a large GPU."""


@functools.cache
def is_installed() -> bool:
    """Whether Triton is installed, as with PyTorch's builds for CUDA."""
    return importlib.util.find_spec("triton") is not None


def serves(q: Tensor) -> bool:
    """Whether this kernel applies to queries (B, T, H, D): one per row, on CUDA, too wide for fused attention."""
    applies = q.shape[1] == 1 and q.shape[-1] > FUSED_WIDTH
    return applies and q.is_cuda and q.dtype != torch.float64 and not torch.is_grad_enabled() and is_installed()


def attend_split(q: Tensor, keys: Tensor, values: int, visible: Tensor, scale: float) -> Tensor:
    """softmax(scale · q·k) k[:values] over the first `visible` (B,) keys of each row, without gradients.

    q (B, H, D), keys (B, S, D) with the last dimension contiguous; returns (B, H, values).
    """
    from litmus.nn.attention.split_kv_kernel import partial_attention

    batch, heads, width = q.shape
    q = q.contiguous()
    groups = -(-heads // BLOCK_HEADS)
    split_size = _keys_per_split(keys.shape[1], batch * groups)
    splits = -(-keys.shape[1] // split_size)
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
        split_size,
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
        num_stages=2 if q.element_size() == 2 else 1,  # tiles in flight that fit into the shared memory of smaller GPUs
    )
    return (lse.softmax(-1)[..., None] * out).sum(2).to(q.dtype)


def _keys_per_split(keys: int, programs: int) -> int:
    """Keys per split, a multiple of BLOCK_KEYS, such that all splits of `programs` occupy the GPU."""
    splits = max(1, TARGET_PROGRAMS // programs)
    size = max(MIN_KEYS_PER_SPLIT, -(-keys // splits))
    return -(-size // BLOCK_KEYS) * BLOCK_KEYS


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
