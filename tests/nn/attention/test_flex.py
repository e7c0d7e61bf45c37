"""Attention under block masks equals the references: on a CPU in fp64 by flex_attention's definition, on CUDA compiled.

On a CPU, torch's flex_attention has no kernel of its own and refuses gradients of its definition; the tests lift that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import flex_attention as torch_flex
from torch.testing import assert_close

from litmus.model import build
from litmus.nn import (
    AttentionConfig,
    Batch,
    CompressedConfig,
    ForwardContext,
    LayerContext,
    MixerConfig,
    MlaConfig,
    SSMaxConfig,
    Window,
    WindowConfig,
    reference_path,
)
from litmus.nn.attention import flex
from litmus.nn.attention.compressed_blocks import Shape, layout_of
from litmus.nn.attention.gates import GateConfig
from litmus.nn.layers.positions import RopeConfig

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="flex_attention is compiled on CUDA only")

WINDOWS: list[MixerConfig] = [
    WindowConfig(window=40),
    WindowConfig(window=150, sinks=3, kv_heads=2, ssmax=SSMaxConfig(), gate=GateConfig(kind="elementwise")),
    WindowConfig(window=1),
    CompressedConfig(block=5, window=20, latents=2, kv_heads=1, ssmax=SSMaxConfig(bias=True)),
    CompressedConfig(block=16, window=64),
]
DOCUMENTS: list[MixerConfig] = [
    AttentionConfig(kv_heads=2, qk_norm=True),
    AttentionConfig(ssmax=SSMaxConfig(), gate=GateConfig(kind="headwise")),
    MlaConfig(ssmax=SSMaxConfig()),
]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of CUDA on a CPU, with flex_attention by its definition."""
    changed = {"DEVICE": "cpu", "DTYPES": (torch.float64,), "WIDTHS": range(1, 99)}
    for name, value in {**changed, "MIN_QUERIES": 1, "MIN_QUERIES_OF_DOCUMENTS": 1}.items():
        monkeypatch.setattr(flex, name, value)
    monkeypatch.setattr(flex, "is_installed", lambda: True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda q, k, v: None)
    torch.compiler.reset()  # each case is another shape, and torch's limit of shapes is 8


def packed(*rows: list[int]) -> ForwardContext:
    """The context of rows of documents of these lengths."""
    positions = [torch.cat([torch.arange(length) for length in lengths]) for lengths in rows]
    ids = [torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) for lengths in rows]
    return ForwardContext(torch.stack(positions), None, document_ids=torch.stack(ids))


def whole(batch: int, length: int) -> ForwardContext:
    return ForwardContext(torch.arange(length).expand(batch, -1))


def fresh(ctx: ForwardContext, device: str = "cpu") -> ForwardContext:
    """The context without what earlier passes have left in it."""
    documents = None if ctx.document_ids is None else ctx.document_ids.to(device)
    return ForwardContext(ctx.positions.to(device), ctx.start_pos, document_ids=documents)


def passed(module: nn.Module, x: Tensor, ctx: ForwardContext, upstream: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and all parameters."""
    x = x.clone().requires_grad_()
    y = module(x, ctx)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], upstream)]


def block_masks(ctx: ForwardContext) -> list[Any]:
    """The block masks that layers have made in this pass."""
    return [made for made in ctx.memo_store.values() if isinstance(made, torch_flex.BlockMask)]


@pytest.mark.slow
@pytest.mark.parametrize("config", WINDOWS, ids=str)
@pytest.mark.parametrize("ctx", [whole(2, 301), packed([131, 1, 169], [20, 280, 1])], ids=["text", "documents"])
def test_windows_and_latents_equal_the_reference(
    config: MixerConfig,
    ctx: ForwardContext,
    on_cpu: None,
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., nn.Module],
) -> None:
    equals_the_reference(rough(config.build(layer_context(positions=RopeConfig()))), ctx)


@pytest.mark.slow
@pytest.mark.parametrize("config", DOCUMENTS, ids=str)
def test_packed_documents_equal_the_reference(
    config: MixerConfig,
    on_cpu: None,
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., nn.Module],
) -> None:
    module = rough(config.build(layer_context(positions=RopeConfig())))
    equals_the_reference(module, packed([131, 1, 169], [20, 280, 1]))


def equals_the_reference(module: nn.Module, ctx: ForwardContext) -> None:
    x, upstream = torch.randn(2, *ctx.positions.shape, 16, dtype=torch.float64)
    fast = fresh(ctx)
    found = passed(module, x, fast, upstream)
    assert block_masks(fast)
    with reference_path():
        expected = passed(module, x, fresh(ctx), upstream)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("ctx", [whole(1, 129), whole(1, 1000), packed([700, 3, 297]), packed([1] * 500)], ids=str)
@pytest.mark.parametrize("kind", [Window(1), Window(130), Window(300, sinks=140), Shape(16, 3, 17), Shape(700, 1, 700)])
def test_blocks_are_those_of_the_whole_mask(ctx: ForwardContext, kind: Window | Shape) -> None:
    length = ctx.positions.shape[1]
    if isinstance(kind, Window):
        intervals, keys = kind.intervals(flex.first_keys(ctx)), length
        expected = kind.visible(ctx.positions[..., None], ctx.positions[:, None])
        index = torch.arange(length)
        expected &= index <= index[:, None]
        if ctx.document_ids is not None:
            expected &= ctx.document_ids[..., None] == ctx.document_ids[:, None]
    else:
        layout = layout_of(ctx, kind)
        blocks = layout.begins.shape[1]
        intervals, keys = layout.intervals(kind), length + blocks * kind.latents
        expected = layout.visible(kind, slice(0, length), slice(0, length), blocks)[0]
    found = flex.block_mask(intervals, 1, keys)
    rows, columns = found.shape[-2:]
    assert rows >= length and columns >= keys and rows % flex.BLOCK == columns % flex.BLOCK == 0
    mask = torch_flex.create_mask(found.mask_mod, 1, 1, rows, columns, device="cpu")
    assert torch.equal(mask[0, :, :length, :keys], expected)
    assert mask.sum() == expected.sum()
    plain = torch_flex.create_block_mask(found.mask_mod, 1, 1, rows, columns, device="cpu", BLOCK_SIZE=flex.BLOCK)
    assert torch.equal(found.to_dense(), plain.to_dense())
    assert torch.equal(found.full_kv_num_blocks, plain.full_kv_num_blocks)
    for row, count in enumerate(found.full_kv_num_blocks[0, 0].tolist()):
        assert torch.equal(found.full_kv_indices[0, 0, row, :count], plain.full_kv_indices[0, 0, row, :count])


def test_other_passes_keep_their_path(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 600, 2, 32, dtype=torch.bfloat16)
    ctx = whole(1, 600)
    assert not flex.serves(q, 32, ctx)  # on a CPU
    monkeypatch.setattr(flex, "DEVICE", "cpu")
    monkeypatch.setattr(flex, "is_installed", lambda: True)
    assert flex.serves(q, 32, ctx)
    assert not flex.serves(q[:, :500], 32, ctx)
    for length in (600, 2048):
        long = torch.randn(1, length, 2, 32, dtype=torch.bfloat16)
        assert flex.serves_documents(long, 32, packed([300, length - 300])) == (length == 2048)
        assert not flex.serves_documents(long, 32, whole(1, length))
    assert not flex.serves(q.float(), 32, ctx)
    assert not flex.serves(q[..., :8], 32, ctx)
    assert not flex.serves(q.to("meta"), 32, ctx)
    assert not flex.serves(q, 32, ctx.with_cache({}))
    assert not flex.serves(q, 32, ForwardContext(ctx.positions, None, torch.ones_like(ctx.positions, dtype=torch.bool)))
    with torch.autocast("cpu", torch.bfloat16):
        assert flex.serves(q.float(), 32, ctx)
    with reference_path():
        assert not flex.serves(q, 32, ctx)


@needs_cuda
@pytest.mark.parametrize(
    ("config", "autocast"), [*((config, False) for config in (*WINDOWS, *DOCUMENTS)), (WINDOWS[0], True)], ids=str
)
def test_kernels_on_cuda_are_as_exact_as_the_reference_in_bf16(
    config: MixerConfig,
    autocast: bool,
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flex, "MIN_QUERIES_OF_DOCUMENTS", 512)
    module = rough(config.build(layer_context(dim=128, positions=RopeConfig()))).cuda()
    ctx = fresh(packed([531, 1, 269], [20, 780, 1]), "cuda")
    x, upstream = 0.3 * torch.randn(2, 2, 801, 128, dtype=torch.float64, device="cuda")
    with reference_path():
        expected = passed(module, x, fresh(ctx, "cuda"), upstream)
    dtype = torch.float32 if autocast else torch.bfloat16
    module.to(dtype)
    inputs = x.to(dtype), ctx, upstream.to(torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = passed(module, *inputs)
        with torch.no_grad():
            assert_close(module(x.to(dtype), fresh(ctx, "cuda")), found[0], atol=2e-2, rtol=2e-2)
        with reference_path():
            rounded = passed(module, inputs[0], fresh(ctx, "cuda"), inputs[2])
    assert block_masks(ctx)
    for one, other, exact in zip(found, rounded, expected, strict=True):
        error, inevitable = ((part.double() - exact).norm() / exact.norm() for part in (one, other))
        assert error <= 2 * inevitable + 1e-2, f"{error:.2g}, and of the reference in bf16 {inevitable:.2g}"


@needs_cuda
def test_a_compiled_model_on_cuda_has_the_gradients_of_the_reference() -> None:
    sizes = {"vocab_size": 61, "dim": 64, "depth": 2, "heads": 2, "context": 600}
    model = build("window", overrides={"mixer.window": 100, "mixer.sinks": 2}, **sizes).cuda()
    tokens = torch.randint(61, (2, 600), device="cuda")
    batch = Batch(tokens, tokens, document_ids=(torch.arange(600, device="cuda") >= 250).long().expand(2, -1))
    parameters = list(model.parameters())
    with reference_path():
        expected = torch.autograd.grad(model.loss(batch).total, parameters)
    with torch.autocast("cuda", torch.bfloat16):
        loss = torch.compile(model.loss, dynamic=False)(batch).total
    for one, other in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        assert (one - other).norm() <= 5e-2 * other.norm()


@needs_cuda
def test_many_shapes_on_cuda_do_not_fall_back_to_all_scores() -> None:
    """After torch's limit of recompilations, flex_attention would compute the T x T scores in memory."""
    for number in range(10):
        length = 512 << (number % 2)
        q, k, v = torch.randn(3, 1 + number // 2, length, 2, 32, dtype=torch.bfloat16, device="cuda")
        ctx = fresh(whole(1 + number // 2, length), "cuda")
        flex.attend_documents(q, k, v, ctx)
    length = 16384
    q, k, v = torch.randn(3, 1, length, 4, 64, dtype=torch.bfloat16, device="cuda")
    ctx = fresh(whole(1, length), "cuda")
    flex.attend_documents(q, k, v, ctx)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    flex.attend_documents(q, k, v, ctx)
    assert torch.cuda.max_memory_allocated() - before < 4 * length * length
