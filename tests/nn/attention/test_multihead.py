"""The attention mixer as a whole, against a plain definition of everything it can be configured to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.errors import BadInput
from litmus.nn import Attention, AttentionConfig, ForwardContext, LayerContext, SSMaxConfig
from litmus.nn.layers.positions import NoPositionsConfig, RopeConfig

BATCH, LENGTH, DIM = 2, 5, 16


def by_definition(module: Attention, config: AttentionConfig, x: Tensor, rope: bool) -> Tensor:
    """Token by token and head by head, with rotations as 2 x 2 matrices."""
    heads, groups, width = module.heads, module.kv_heads, module.head_dim
    weight, bias = module.qkv.weight, module.qkv.bias
    out = torch.zeros(BATCH, LENGTH, heads * width, dtype=x.dtype)

    def vector(b: int, t: int, part: int, norm: torch.nn.Module | None) -> Tensor:
        rows = slice(part * width, (part + 1) * width)
        result = weight[rows] @ x[b, t] + (0 if bias is None else bias[rows])
        if norm is not None:
            result = result / (result.square().mean() + 1e-5).sqrt() * norm.weight
        return result

    def turned(vector: Tensor, t: int) -> Tensor:
        if not rope:
            return vector
        half, result = width // 2, vector.clone()
        for i in range(half):
            cos, sin = math.cos(t / 10_000 ** (2 * i / width)), math.sin(t / 10_000 ** (2 * i / width))
            result[i] = cos * vector[i] - sin * vector[i + half]
            result[i + half] = sin * vector[i] + cos * vector[i + half]
        return result

    for b, t, h in product(range(BATCH), range(LENGTH), range(heads)):
        group = h // (heads // groups)
        q = turned(vector(b, t, h, module.q_norm), t)
        keys = [turned(vector(b, s, heads + group, module.k_norm), s) for s in range(t + 1)]
        values = [vector(b, s, heads + groups + group, None) for s in range(t + 1)]
        scores = torch.stack([q @ k for k in keys]) / math.sqrt(width)
        if config.ssmax is not None:
            scale = module.ssmax.scale[h] if config.ssmax.learned else 1
            offset = module.ssmax.bias[h] if config.ssmax.bias else 0
            scores = scores * (scale * math.log(t + 1) + offset)
        weights = scores.exp() / scores.exp().sum()
        out[b, t, h * width : (h + 1) * width] = sum(w * v for w, v in zip(weights, values, strict=True))
    return module.out(out)


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        AttentionConfig(),
        AttentionConfig(bias=True, kv_heads=2),
        AttentionConfig(kv_heads=1, head_dim=6),
        AttentionConfig(qk_norm=True, heads=2),
        AttentionConfig(ssmax=SSMaxConfig()),
        AttentionConfig(ssmax=SSMaxConfig(learned=False), kv_heads=2),
        AttentionConfig(ssmax=SSMaxConfig(bias=True), qk_norm=True, bias=True, kv_heads=2),
    ],
    ids=lambda config: str(config.model_dump(exclude_defaults=True)),
)
def test_attention_equals_its_definition(
    config: AttentionConfig,
    rope: bool,
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., Attention],
    whole_rows: Callable[[Tensor], ForwardContext],
) -> None:
    module = rough(config.build(layer_context(positions=RopeConfig() if rope else NoPositionsConfig())))
    x = torch.randn(BATCH, LENGTH, DIM, dtype=torch.float64)
    assert_close(module(x, whole_rows(x)), by_definition(module, config, x, rope))


def test_qk_norm_makes_scores_independent_of_the_size_of_queries_and_keys(
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., Attention],
    whole_rows: Callable[[Tensor], ForwardContext],
) -> None:
    module = rough(AttentionConfig(qk_norm=True).build(layer_context()))
    x = torch.randn(1, LENGTH, DIM, dtype=torch.float64)
    before = module(x, whole_rows(x))
    with torch.no_grad():
        module.qkv.weight[: 2 * DIM] *= 1000
    assert_close(module(x, whole_rows(x)), before, rtol=1e-3, atol=1e-3)


def test_grouped_heads_cache_only_their_keys_and_values(layer_context: Callable[..., LayerContext]) -> None:
    module = AttentionConfig(kv_heads=2).build(layer_context())
    buffers = module.new_cache(3, 7, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {name: tuple(buffer.shape) for name, buffer in buffers.items()} == {"k": (3, 7, 2, 4), "v": (3, 7, 2, 4)}
    assert all(buffer.dtype == torch.bfloat16 for buffer in buffers.values())
    assert module.kv_elements(7) == 2 * 7 * 2 * 4


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("config", [AttentionConfig(kv_heads=2), AttentionConfig(ssmax=SSMaxConfig())])
def test_the_entropy_reported_is_that_of_the_attention_weights(
    config: AttentionConfig,
    fast: bool,
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., Attention],
    whole_rows: Callable[[Tensor], ForwardContext],
) -> None:
    module = rough(config.build(layer_context()))
    x = torch.randn(BATCH, LENGTH, DIM, dtype=torch.float64)
    observed: dict[str, list[Tensor]] = {}
    plain = whole_rows(x)
    module(x, ForwardContext(plain.positions, observed=observed))
    q, k, _ = module.qkv(x).unflatten(-1, (-1, module.head_dim)).split((4, module.kv_heads, module.kv_heads), dim=2)
    k = k.repeat_interleave(4 // module.kv_heads, 2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / 2
    if module.ssmax is not None:
        scores = scores * (module.ssmax.scale[:, None] * torch.arange(1, LENGTH + 1).log())[None, :, :, None]
    weights = scores.masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool(), -torch.inf).softmax(-1)
    entropy = -(weights * weights.clamp(min=1e-300).log()).sum(-1).mean()
    assert observed["attention_entropy"][0].item() == pytest.approx(entropy.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("config", "changes", "sentence"),
    [
        (AttentionConfig(heads=3), {}, "heads = 3 does not divide dim = 16; valid: 1, 2, 4, 8, 16"),
        (AttentionConfig(), {"heads": 5}, "heads = 5 does not divide dim = 16"),
        (AttentionConfig(kv_heads=3), {}, "kv_heads = 3 does not divide heads = 4; valid: 1, 2, 4"),
        (AttentionConfig(head_dim=5), {"positions": RopeConfig()}, "a head is 5 wide"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    config: AttentionConfig, changes: dict[str, object], sentence: str, layer_context: Callable[..., LayerContext]
) -> None:
    with pytest.raises(BadInput, match=sentence):
        config.build(layer_context(**changes))


def test_heads_of_their_own_width_need_not_divide_dim(
    layer_context: Callable[..., LayerContext], whole_rows: Callable[[Tensor], ForwardContext]
) -> None:
    module = AttentionConfig(heads=3, head_dim=10).build(layer_context())
    x = torch.randn(1, 2, DIM)
    assert module(x, whole_rows(x)).shape == x.shape
