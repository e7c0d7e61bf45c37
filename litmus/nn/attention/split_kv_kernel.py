"""The Triton kernel of split-KV decoding: one query per row, keys shared by all heads, one split per program."""

from __future__ import annotations

import triton
from triton import language as tl


@triton.jit
def partial_attention(
    q_pointer,  # (B, H, R + P)
    keys_pointer,  # (B, S, R + P); the first R elements are also the values
    visible_pointer,  # (B,) number of keys of each row
    out_pointer,  # (B, H, splits, R) fp32: weighted mean of the values of each split
    lse_pointer,  # (B, H, splits) fp32: log-sum-exp of the scores of each split
    scale,
    heads,
    splits,
    split_size,  # keys per split, a multiple of BLOCK_KEYS
    q_row,
    q_head,
    key_row,
    key_slot,
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    RANK_BLOCK: tl.constexpr,  # next powers of two, as required of tiles
    ROPE_BLOCK: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """Attention of one block of heads of one row over one split of its keys, by an online softmax."""
    row, split = tl.program_id(0), tl.program_id(2)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    rank, rope = tl.arange(0, RANK_BLOCK), tl.arange(0, ROPE_BLOCK)
    is_head, is_rank, is_rope = head < heads, rank < RANK, rope < ROPE

    q_at = q_pointer + row * q_row + head[:, None] * q_head
    q_rank = tl.load(q_at + rank[None, :], mask=is_head[:, None] & is_rank[None, :], other=0.0)
    q_rope = tl.load(q_at + RANK + rope[None, :], mask=is_head[:, None] & is_rope[None, :], other=0.0)

    visible = tl.load(visible_pointer + row)
    first = split * split_size
    last = tl.minimum(first + split_size, visible)
    highest = tl.full((BLOCK_HEADS,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_HEADS,), tl.float32)
    mean = tl.zeros((BLOCK_HEADS, RANK_BLOCK), tl.float32)
    for begin in range(first, last, BLOCK_KEYS):
        slot = begin + tl.arange(0, BLOCK_KEYS)
        is_key = slot < last
        # 64 bits: a batch of long caches can have more than 2^31 elements
        key_at = keys_pointer + row.to(tl.int64) * key_row + slot[:, None].to(tl.int64) * key_slot
        latent = tl.load(key_at + rank[None, :], mask=is_key[:, None] & is_rank[None, :], other=0.0)
        rotated = tl.load(key_at + RANK + rope[None, :], mask=is_key[:, None] & is_rope[None, :], other=0.0)
        scores = tl.dot(q_rank, tl.trans(latent), input_precision="ieee")
        scores += tl.dot(q_rope, tl.trans(rotated), input_precision="ieee")
        scores = tl.where(is_key[None, :], scores * scale, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(latent.dtype), latent, input_precision="ieee")
        highest = higher

    # A split beyond the row's keys has total 0: its log-sum-exp stays -inf, so its weight in the merge is 0.
    divisor = tl.where(total == 0.0, 1.0, total)
    lse = highest + tl.log(divisor)
    mean = mean / divisor[:, None]
    index = (row * heads + head) * splits + split
    tl.store(lse_pointer + index, lse, mask=is_head)
    tl.store(
        out_pointer + index[:, None].to(tl.int64) * RANK + rank[None, :],
        mean,
        mask=is_head[:, None] & is_rank[None, :],
    )
