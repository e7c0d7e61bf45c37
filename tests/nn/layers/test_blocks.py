"""The forms of a block against their formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.nn import AttentionConfig, ForwardContext, LayerContext, PreNormBlock, PreNormConfig
from litmus.nn.layers.blocks import SingleResidualBlock, SingleResidualConfig
from litmus.nn.layers.feedforwards import GeluConfig


def test_a_pre_norm_block_adds_mixer_then_feedforward_of_normed_vectors(
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., PreNormBlock],
    whole_rows: Callable[[Tensor], ForwardContext],
) -> None:
    block = rough(PreNormConfig().build(layer_context(mixer=AttentionConfig(), feedforward=GeluConfig())))
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    ctx = whole_rows(x)
    mixed = x + block.mixer(block.mixer_norm(x), ctx)
    assert_close(block(x, ctx), mixed + block.feedforward(block.feedforward_norm(mixed), ctx))


def test_a_block_drops_out_what_it_adds_but_never_the_stream(
    layer_context: Callable[..., LayerContext], whole_rows: Callable[[Tensor], ForwardContext]
) -> None:
    block = PreNormConfig().build(layer_context(mixer=AttentionConfig(), feedforward=GeluConfig(), dropout=0.9))
    x = torch.randn(2, 50, 16)
    untouched = (block(x, whole_rows(x)) == x).float().mean()
    assert 0.7 < untouched < 0.9  # both additions are dropped with chance 0.9 each


def test_a_block_caches_what_its_mixer_caches(layer_context: Callable[..., LayerContext]) -> None:
    block = PreNormConfig().build(layer_context(mixer=AttentionConfig(kv_heads=2), feedforward=GeluConfig()))
    buffers = block.new_cache(2, 3, device=torch.device("cpu"), dtype=torch.float32)
    assert sum(buffer.numel() for buffer in buffers.values()) == 2 * block.kv_elements(3)


def test_a_single_residual_block_adds_the_feedforward_of_what_its_mixer_made(
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., SingleResidualBlock],
    whole_rows: Callable[[Tensor], ForwardContext],
) -> None:
    block = rough(
        SingleResidualConfig().build(layer_context(mixer=AttentionConfig(kv_heads=2), feedforward=GeluConfig()))
    )
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    ctx = whole_rows(x)
    assert_close(block(x, ctx), x + block.feedforward(block.mixer(block.norm(x), ctx), ctx))
    buffers = block.new_cache(2, 3, device=torch.device("cpu"), dtype=torch.float32)
    assert sum(buffer.numel() for buffer in buffers.values()) == 2 * block.kv_elements(3)
