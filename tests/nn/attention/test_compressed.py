"""Compressed attention: its formula, its fast path, what its cache holds, and that both decode what it defines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from litmus.errors import BadInput
from litmus.model import Decoder, build, cache_bytes_per_token
from litmus.nn import (
    Attention,
    AttentionConfig,
    CompressedAttention,
    CompressedConfig,
    ForwardContext,
    LayerContext,
    SSMaxConfig,
    reference_path,
)
from litmus.nn.attention import compressed as latent
from litmus.nn.attention import compressed_blocks as compression
from litmus.nn.attention.gates import GateConfig
from litmus.nn.layers.positions import RopeConfig

DIM, CHUNK = 16, 4
OPTIONS: list[dict[str, Any]] = [
    {},
    {"qk_norm": True, "kv_heads": 2, "gate": GateConfig(kind="elementwise"), "bias": True},
    {"ssmax": SSMaxConfig(bias=True), "kv_heads": 1},
]


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int]:
    """Any valid m, r and w."""
    block = draw(st.integers(1, 5))
    return {
        "block": block,
        "latents": draw(st.integers(1, block)),
        "window": draw(st.integers(block, block + 6)),
    }


def made(
    layer_context: Callable[..., LayerContext], rough: Callable[..., CompressedAttention], **keys: Any
) -> CompressedAttention:
    return rough(CompressedConfig(**keys).build(layer_context(positions=RopeConfig())))


def by_formula(module: CompressedAttention, x: Tensor) -> Tensor:
    """What the heads of one row x (T, dim) read, query by query and block by block, (T, H, D)."""
    ctx = ForwardContext(torch.arange(len(x))[None])
    q, k, v = (part[0] for part in module.qkv_proj(x[None], ctx))
    scores = module.scores(x).unflatten(-1, (module.kv_heads, -1))
    block, latents, window = module.shape.block, module.shape.latents, module.shape.window
    out = torch.zeros_like(q)
    for t, head in itertools.product(range(len(x)), range(module.heads)):
        group = head // (module.heads // module.kv_heads)
        keys, values = [], []
        for start in range(0, len(x), block):
            if start + block <= t:
                inside = slice(start, start + block)
                for number in range(latents):
                    weights = (scores[inside, group, number] + module.offsets[:, group, number]).softmax(0)
                    keys.append(weights @ k[inside, group])
                    values.append(weights @ v[inside, group])
        for j in range(max(0, t - window + 1), t + 1):
            keys.append(k[j, group])
            values.append(v[j, group])
        scale = 1 / math.sqrt(module.head_dim)
        if module.ssmax is not None:
            scale *= module.ssmax.scale[head] * math.log(len(keys)) + module.ssmax.bias[head]
        out[t, head] = (torch.stack(keys) @ q[t, head] * scale).softmax(0) @ torch.stack(values)
    return out


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("keys", OPTIONS, ids=str)
@pytest.mark.parametrize(("block", "latents", "window"), [(3, 2, 5), (4, 1, 4), (1, 1, 3), (2, 2, 9)])
@torch.no_grad()
def test_a_query_reads_latents_of_past_blocks_and_its_window_in_one_softmax(
    block: int, latents: int, window: int, keys: dict[str, Any], fast: bool, layer_context: Any, rough: Any
) -> None:
    module = made(layer_context, rough, block=block, latents=latents, window=window, **keys)
    x = torch.randn(14, DIM, dtype=torch.float64)
    ctx = ForwardContext(torch.arange(14)[None])
    with mock.patch.object(compression, "QUERIES_PER_CHUNK", CHUNK):
        assert_close(module(x[None], ctx), module.out_proj(by_formula(module, x)[None], x[None], ctx))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("keys", OPTIONS, ids=str)
def test_blocks_and_windows_of_one_token_are_dense_attention(
    keys: dict[str, Any], fast: bool, layer_context: Any, rough: Any
) -> None:
    module = made(layer_context, rough, block=1, latents=1, window=1, **keys)
    dense: Attention = AttentionConfig(**keys).build(layer_context(positions=RopeConfig())).double()
    dense.load_state_dict({name: kept for name, kept in module.state_dict().items() if name in dense.state_dict()})
    x = torch.randn(2, 11, DIM, dtype=torch.float64)
    ctx = ForwardContext(torch.arange(11).expand(2, -1))
    assert_close(module(x, ctx), dense(x, ctx))


@given(shape=shapes(), length=st.integers(1, 23), option=st.sampled_from(OPTIONS), packed=st.booleans())
def test_the_fast_path_equals_the_reference_forward_and_gradient(
    shape: dict[str, int], length: int, option: dict[str, Any], packed: bool, layer_context: Any, rough: Any
) -> None:
    torch.manual_seed(length)
    module = made(layer_context, rough, **shape, **option)
    x = torch.randn(2, length, DIM, dtype=torch.float64, requires_grad=True)
    documents, valid = None, None
    positions, start = torch.arange(length).expand(2, -1), 0
    if packed:  # two documents of other lengths in each row, padding behind them
        ends = torch.randint(0, length + 1, (2, 2)).sort(1).values
        place = torch.arange(length)
        documents, valid = (place >= ends[:, :1]).long(), place < ends[:, 1:].clamp(min=1)
        positions, start = place - documents * ends[:, :1], None
    found = []
    with mock.patch.object(compression, "QUERIES_PER_CHUNK", CHUNK):
        for fast in (True, False):
            with reference_path(not fast):
                y = module(x, ForwardContext(positions, start, valid, documents))
            y = y if valid is None else y * valid[..., None]
            direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
            found.append((y, *torch.autograd.grad((y * direction).sum(), [x, *module.parameters()])))
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


@pytest.mark.slow
@given(shape=shapes(), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), fast=st.booleans())
@torch.no_grad()
def test_cached_attention_equals_attention_at_once_however_tokens_come(
    shape: dict[str, int], sizes: list[int], fast: bool, layer_context: Any, rough: Any
) -> None:
    module = made(layer_context, rough, **shape)
    length = sum(sizes)
    x = torch.randn(2, length, DIM, dtype=torch.float64)
    with reference_path():
        full = module(x, ForwardContext(torch.arange(length).expand(2, -1)))
    with mock.patch.object(compression, "QUERIES_PER_CHUNK", CHUNK), reference_path(not fast):
        for spare in (0, 3):
            cache = module.new_cache(2, length + spare, device=x.device, dtype=x.dtype)
            parts, start = [], 0
            for part in x.split(sizes, dim=1):
                end = start + part.shape[1]
                positions = torch.arange(start, end).expand(2, -1)
                parts.append(module(part, ForwardContext(positions, start, cache=cache, kv_len=end)))
                start = end
            assert_close(torch.cat(parts, dim=1), full)


@pytest.mark.slow
@given(shape=shapes(), counts=st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=6), data=st.data())
@torch.no_grad()
def test_ragged_rows_go_on_as_if_alone(
    shape: dict[str, int], counts: list[tuple[int, ...]], data: st.DataObject, layer_context: Any, rough: Any
) -> None:
    """Each row gets its own number of tokens per step, with padding that would do harm on either side."""
    module = made(layer_context, rough, **shape)
    taken, longest = torch.zeros(3, dtype=torch.long), 40
    x = torch.randn(3, longest, DIM, dtype=torch.float64)
    with reference_path():
        full = module(x, ForwardContext(torch.arange(longest).expand(3, -1)))
    cache = module.new_cache(3, longest, device=x.device, dtype=x.dtype)
    with mock.patch.object(compression, "QUERIES_PER_CHUNK", CHUNK):
        for given_now in counts:
            count = torch.tensor(given_now)
            width = max(1, int(count.max()))
            left = data.draw(st.booleans())
            column = torch.arange(width)
            valid = column >= width - count[:, None] if left else column < count[:, None]
            positions = taken[:, None] + (valid.cumsum(1) - 1).clamp(min=0)
            padded = torch.where(valid[..., None], x[torch.arange(3)[:, None], positions], 9.0)
            ctx = ForwardContext(
                positions, None, None if valid.all() else valid, cache=cache, kv_len=int(taken.max()) + width
            )
            y = module(padded, ctx)
            for row in range(3):
                assert_close(y[row][valid[row]], full[row, taken[row] : taken[row] + count[row]])
            taken += count


@torch.no_grad()
def test_a_row_emptied_in_a_running_batch_begins_a_new_text(rough: Callable[..., Decoder]) -> None:
    model = rough(small(block=3, latents=2, window=4)).eval()
    tokens = torch.randint(61, (2, 20))
    cache = model.new_cache(2, 20)
    for token in tokens[:, :11].split(1, dim=1):
        model(token, cache)
    cache.reset_rows(torch.tensor([True, False]))
    new = torch.randint(61, (1, 9))
    both = torch.cat((new, tokens[1:, 11:]))
    logits = torch.cat([model(token, cache) for token in both.split(1, dim=1)], dim=1)
    assert_close(logits[0], model(new)[0])
    assert_close(logits[1], model(tokens[1:])[0, 11:])


@pytest.mark.parametrize(("block", "latents", "window"), [(1, 1, 1), (4, 3, 7), (16, 1, 64)])
@pytest.mark.parametrize("capacity", [1, 5, 100])
def test_the_cache_holds_the_window_and_the_latents_of_every_block(
    block: int, latents: int, window: int, capacity: int, layer_context: Any
) -> None:
    module = CompressedConfig(block=block, latents=latents, window=window, kv_heads=2).build(layer_context())
    cache = module.new_cache(3, capacity, device=torch.device("cpu"), dtype=torch.float32)
    slots = window + math.ceil(capacity / block) * latents
    assert cache["k"].shape == cache["v"].shape == (3, slots, 2, 4)
    assert sum(buffer.numel() for buffer in cache.values()) == 3 * module.kv_elements(capacity)
    assert module.kv_elements(capacity) == 2 * slots * 2 * 4 + block * 2 * latents


def test_the_cache_at_8192_tokens_is_less_than_a_sixth_of_the_standard_one() -> None:
    bytes_per_token = {}
    for name, overrides in (("standard", {}), ("compressed", {"mixer.block": 16, "mixer.window": 256})):
        model = build(name, overrides=overrides, vocab_size=61, dim=64, depth=2, heads=4)
        bytes_per_token[name] = cache_bytes_per_token(model, 8192)
    assert bytes_per_token["compressed"] < bytes_per_token["standard"] / 6


@torch.no_grad()
def test_a_decoded_token_reads_the_window_and_the_latents_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(block=4, latents=2, window=6).eval()
    cache = model.new_cache(1, 1000)
    read: list[int] = []
    original = latent.attend
    monkeypatch.setattr(latent, "attend", lambda q, k, *a, **b: (read.append(k.shape[1]), original(q, k, *a, **b))[1])
    for token in torch.randint(61, (1, 30)).split(1, dim=1):
        model(token, cache)
    assert read[:: len(model.layers)] == [6 + t // 4 * 2 for t in range(30)]


def test_no_tensor_grows_with_the_square_of_the_length(layer_context: Any) -> None:
    class LargestTensor(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, Tensor):
                    self.numbers = max(self.numbers, tensor.numel())
            return result

    module, length = CompressedConfig(block=16, window=64).build(layer_context()), 2048
    x = torch.randn(1, length, DIM, requires_grad=True)
    with LargestTensor() as largest:
        module(x, ForwardContext(torch.arange(length)[None])).sum().backward()
    assert length * DIM <= largest.numbers < length**2 / 8


@torch.no_grad()
def test_ssmax_counts_the_latents_and_tokens_that_a_query_reads(layer_context: Any, rough: Any) -> None:
    module = made(layer_context, rough, block=3, latents=2, window=5)
    x = torch.randn(1, 17, DIM, dtype=torch.float64)
    ctx = ForwardContext(torch.arange(17)[None])
    _, k, v = module.qkv_proj(x, ctx)
    scores = torch.zeros(1, 17, module.kv_heads, 2, dtype=torch.float64)
    _, _, visible = compression.definition(ctx, module.shape, scores, k, v)
    assert visible.sum(-1)[0, 0].tolist() == module.shape.keys(ctx.positions)[0].tolist()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_decoding_in_lower_precision_follows_the_full_pass(dtype: torch.dtype) -> None:
    model = small(block=4, latents=1, window=8).eval()
    tokens = torch.randint(61, (2, 40))
    exact = model.double()(tokens)
    model = model.to(dtype)
    cache = model.new_cache(2, 40)
    decoded = torch.cat([model(token, cache) for token in tokens.split([20] + [1] * 20, dim=1)], dim=1)
    worst = (decoded.double() - exact).abs().max() / exact.std()
    assert worst < (0.15 if dtype == torch.bfloat16 else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
def test_the_entropy_reported_is_that_of_the_weights_over_latents_and_tokens(fast: bool, layer_context: Any) -> None:
    module = CompressedConfig(block=2, latents=1, window=2).build(layer_context())
    for parameter in (module.qkv.weight, module.scores.weight):
        nn.init.zeros_(parameter)  # even weights: the entropy of a query is the log of how many keys it reads
    observed: dict[str, list[Tensor]] = {}
    module(torch.randn(1, 9, DIM), ForwardContext(torch.arange(9)[None], observed=observed))
    counts = module.shape.keys(torch.arange(9)).float()
    assert_close(observed["attention_entropy"][0], counts.log().mean())


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"block": 8, "window": 7}, "window = 7 leaves tokens of an unfinished block of 8 unread; 8 or more is valid"),
        ({"block": 2, "latents": 3}, "latents = 3 of a block of 2 tokens would be no compression; 1 to 2 are valid"),
        ({"block": 0}, "block = 0 is not valid: input should be greater than or equal to 1"),
        ({"latents": 0}, "latents = 0 is not valid: input should be greater than or equal to 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(keys: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        build("compressed", overrides={f"mixer.{name}": value for name, value in keys.items()})


@pytest.mark.parametrize("block", ["prenorm", "single_residual"])
def test_roleplay_is_compressed_and_dense_first_then_full_attention_with_experts(block: str) -> None:
    with torch.device("meta"):
        model = build("roleplay", overrides={"block.kind": block})
    kinds = [(parts["mixer"].kind, parts["feedforward"].kind) for parts in model.recipe.layer_parts()]
    assert kinds == [("compressed", "gelu")] * 6 + [("attention", "moe")] * 6
    dim, heads, vocabulary = 768, 12, 50257
    maps, dense, experts = 4 * dim**2, 2 * dim * 3072, 4 * 3 * dim * 2048 + 4 * dim
    compression_weights = dim * heads + 16 * heads
    norms = dim * (2 if block == "prenorm" else 1)
    layers = 6 * (maps + compression_weights + dense + norms) + 6 * (maps + experts + norms)
    ahead = 2 * dim**2 + 3 * dim + (maps + experts + norms)
    counts = model.parameter_counts()
    assert counts["non_embedding"] == layers + dim
    assert counts["total"] == layers + dim + (vocabulary + 1024) * dim + ahead
    assert model.head.weight is model.embedding.weight


def small(block: int, latents: int, window: int) -> Decoder:
    options = {"mixer.block": block, "mixer.latents": latents, "mixer.window": window}
    return build("compressed", overrides=options, vocab_size=61, dim=32, depth=2, heads=4, context=64)
