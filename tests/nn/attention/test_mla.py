"""Latent attention: its definition, and that fused, absorbed and cached attention give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.errors import BadInput
from litmus.model import Decoder, build
from litmus.nn import Batch, ForwardContext, LayerContext, Mla, MlaConfig, SSMaxConfig, reference_path
from litmus.nn.attention.attend import attend
from litmus.nn.attention.mla import attend_shared
from litmus.nn.layers.positions import LearnedPositionsConfig, NoPositionsConfig, RopeConfig

BATCH, LENGTH, DIM = 2, 5, 16
VARIANTS = [
    MlaConfig(),
    MlaConfig(latent_query=True),
    MlaConfig(latent_query=True, q_rank=5, kv_rank=7, nope_dim=3, rope_dim=6, value_dim=2),
    MlaConfig(heads=3, kv_rank=1, nope_dim=2, rope_dim=2, value_dim=9),
    MlaConfig(rope_dim=0),
    MlaConfig(ssmax=SSMaxConfig()),
    MlaConfig(ssmax=SSMaxConfig(bias=True), kv_rank=40),
]
WAYS = [("off", True), ("on", True), ("auto", True), ("off", False), ("on", False)]
"""(absorb, fast)"""


def named(config: MlaConfig) -> str:
    return str(config.model_dump(exclude_defaults=True))


def with_absorb(config: MlaConfig, absorb: str) -> MlaConfig:
    return config.model_copy(update={"absorb": absorb})


def by_definition(module: Mla, x: Tensor) -> Tensor:
    """Token by token and head by head, as the formula of the paper is written."""
    heads, nope, rope, value, rank = module.heads, module.nope, module.rope, module.value, module.rank
    up = module.kv_up.weight.view(heads, nope + value, rank)
    out = torch.zeros(*x.shape[:2], heads, value, dtype=x.dtype)

    def normed(vector: Tensor, norm: Any) -> Tensor:
        return vector / (vector.square().mean() + 1e-6).sqrt() * norm.weight

    def turned(vector: Tensor, t: int) -> Tensor:
        half, result = rope // 2, vector.clone()
        for i in range(half):
            cos, sin = math.cos(t / 10_000 ** (2 * i / rope)), math.sin(t / 10_000 ** (2 * i / rope))
            result[i] = cos * vector[i] - sin * vector[i + half]
            result[i + half] = sin * vector[i] + cos * vector[i + half]
        return result

    for b, t, h in product(range(x.shape[0]), range(x.shape[1]), range(heads)):
        source = x[b, t] if module.q_down is None else normed(module.q_down.weight @ x[b, t], module.q_norm)
        q = module.q_up.weight.view(heads, nope + rope, -1)[h] @ source
        scores, values = [], []
        for s in range(t + 1):
            down = module.kv_down.weight @ x[b, s]
            c = normed(down[:rank], module.kv_norm)
            scores.append(q[:nope] @ (up[h, :nope] @ c) + turned(q[nope:], t) @ turned(down[rank:], s))
            values.append(up[h, nope:] @ c)
        logits = torch.stack(scores) / math.sqrt(nope + rope)
        if module.ssmax is not None:
            offset = 0 if module.ssmax.bias is None else module.ssmax.bias[h]
            logits = logits * (module.ssmax.scale[h] * math.log(t + 1) + offset)
        out[b, t, h] = torch.stack(values).T @ logits.softmax(-1)
    return module.out(out.flatten(-2))


@pytest.mark.slow
@pytest.mark.parametrize(("absorb", "fast"), WAYS)
@pytest.mark.parametrize("config", VARIANTS, ids=named)
def test_every_way_equals_the_definition_and_its_gradient(
    config: MlaConfig, absorb: str, fast: bool, layer_context: Callable[..., LayerContext], rough: Any
) -> None:
    module = rough(with_absorb(config, absorb).build(layer_context(positions=RopeConfig())))
    x = torch.randn(BATCH, LENGTH, DIM, dtype=torch.float64, requires_grad=True)
    positions = torch.arange(LENGTH).expand(BATCH, -1)
    expected, found = by_definition(module, x), module(x, ForwardContext(positions))
    assert_close(found, expected)
    direction, inputs = torch.randn_like(expected), [x, *module.parameters()]
    gradients = (torch.autograd.grad((y * direction).sum(), inputs) for y in (found, expected))
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other)


@torch.no_grad()
@pytest.mark.parametrize(("absorb", "fast"), WAYS)
@pytest.mark.parametrize("config", VARIANTS, ids=named)
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 1, 3], [2, 7], [9]], ids=str)
def test_cached_attention_equals_attention_at_once(
    config: MlaConfig,
    absorb: str,
    fast: bool,
    chunks: list[int],
    layer_context: Callable[..., LayerContext],
    rough: Any,
) -> None:
    module = rough(with_absorb(config, absorb).build(layer_context(positions=RopeConfig())))
    x = torch.randn(BATCH, 9, DIM, dtype=torch.float64)
    with reference_path():
        full = module(x, ForwardContext(torch.arange(9).expand(BATCH, -1)))
    cache = module.new_cache(BATCH, 12, device=x.device, dtype=x.dtype)
    parts, start = [], 0
    for part in x.split(chunks, dim=1):
        end = start + part.shape[1]
        ctx = ForwardContext(torch.arange(start, end).expand(BATCH, -1), start, cache=cache, kv_len=end)
        parts.append(module(part, ctx))
        start = end
    assert_close(torch.cat(parts, dim=1), full)


@torch.no_grad()
@pytest.mark.parametrize("absorb", ["on", "off"])
def test_ragged_rows_decode_as_if_alone_absorbed_or_not(absorb: str, rough: Callable[..., Decoder]) -> None:
    small = {"vocab_size": 61, "dim": 32, "depth": 2, "heads": 4, "context": 24}
    model = rough(build("mla", overrides={"mixer.absorb": absorb, "mixer.ssmax": {}}, **small)).eval()
    tokens = torch.randint(61, (3, 12))
    cache, lengths = model.new_cache(3, 20), [9, 1, 4]
    valid = torch.arange(9) >= 9 - torch.tensor(lengths)[:, None]  # padding on the left
    padded = torch.randint(61, (3, 9))
    padded[valid] = torch.cat([tokens[row, :length] for row, length in enumerate(lengths)])
    model(Batch(padded, padding_mask=valid), cache)
    for extra in range(3):
        ctx = torch.stack([tokens[row, length + extra] for row, length in enumerate(lengths)])
        logits = model(ctx[:, None], cache)
        for row, length in enumerate(lengths):
            with reference_path():
                assert_close(logits[row, 0], model(tokens[row : row + 1, : length + extra + 1])[0, -1])


@torch.no_grad()
def test_the_cache_is_one_tensor_of_normed_latents_and_rotated_keys(
    layer_context: Callable[..., LayerContext], rough: Any
) -> None:
    module = rough(MlaConfig(kv_rank=5, rope_dim=4).build(layer_context(positions=RopeConfig())))
    cache = module.new_cache(2, 7, device=torch.device("cpu"), dtype=torch.float64)
    assert {name: tuple(buffer.shape) for name, buffer in cache.items()} == {"latents": (2, 7, 5 + 4)}
    assert module.kv_elements(7) == 7 * (5 + 4)
    x = torch.randn(2, 3, DIM, dtype=torch.float64)
    ctx = ForwardContext(torch.arange(3).expand(2, -1), cache=cache, kv_len=3)
    module(x, ctx)
    down = module.kv_down(x)
    assert_close(cache["latents"][:, :3, :5], module.kv_norm(down[..., :5]))
    assert_close(cache["latents"][:, :3, 5:], module.rotation(down[:, :, None, 5:], ctx)[:, :, 0])
    assert (cache["latents"][:, 3:] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize(
    ("start", "length", "absorbed"),
    [(None, 1, False), (None, 6, False), (0, 3, False), (0, 6, False), (6, 1, True), (6, 5, True), (6, 6, False)],
)
def test_auto_absorbs_when_decoding_and_only_while_it_multiplies_less(
    start: int | None,
    length: int,
    absorbed: bool,
    layer_context: Callable[..., LayerContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = MlaConfig(kv_rank=12, nope_dim=4, value_dim=4, rope_dim=0).build(layer_context())
    used = []
    for name in ("expanded", "absorbed"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, o=original: (used.append(n), o(*a))[1])
    cache = None if start is None else module.new_cache(1, 12, device=torch.device("cpu"), dtype=torch.float32)
    first = start or 0
    ctx = ForwardContext(torch.arange(first, first + length)[None], first, cache=cache, kv_len=first + length)
    to_expand, more_per_query = 12 * (4 + 4), 2 * 12 - (4 + 4)  # multiplications per cached token and head
    assert absorbed == (start == 6 and length * more_per_query < to_expand)
    module(torch.randn(1, length, DIM), ctx)
    assert used == (["absorbed"] if absorbed else ["expanded"])


@torch.no_grad()
def test_the_reference_is_never_absorbed(
    layer_context: Callable[..., LayerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = MlaConfig(absorb="on").build(layer_context())
    monkeypatch.delattr(Mla, "absorbed")
    x = torch.randn(1, LENGTH, DIM)
    with reference_path():
        module(x, ForwardContext(torch.arange(LENGTH)[None]))
    with pytest.raises(AttributeError):
        module(x, ForwardContext(torch.arange(LENGTH)[None]))


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_reading_shared_keys_in_bf16_stays_as_near_to_fp64_as_fused_attention(masked: bool) -> None:
    q, keys = torch.randn(2, 3, 4, 24), torch.randn(2, 40, 24)
    mask = torch.ones(2, 1, 3, 40, dtype=torch.bool).tril(30) if masked else "all"
    exact = attend_shared(q.double(), keys.double(), 20, mask, 0.3)
    assert exact.shape == (2, 3, 4, 20)
    weights = torch.einsum("bthd,bsd->bhts", q.double(), keys.double()) * 0.3
    if masked:
        weights = weights.masked_fill(~mask, -torch.inf)
    assert_close(exact, torch.einsum("bhts,bsd->bthd", weights.softmax(-1), keys.double()[..., :20]))
    rounded = attend_shared(q.bfloat16(), keys.bfloat16(), 20, mask, 0.3)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.double() - exact).abs().max() < 0.05


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_decoding_in_lower_precision_follows_the_full_pass(dtype: torch.dtype) -> None:
    model = build("mla", vocab_size=61, dim=64, depth=2, heads=4, context=64).eval()
    tokens = torch.randint(61, (2, 40))
    exact = model.double()(tokens)
    model = model.to(dtype)
    cache = model.new_cache(2, 40)
    decoded = torch.cat([model(token, cache) for token in tokens.split([20] + [1] * 20, dim=1)], dim=1)
    worst = (decoded.double() - exact).abs().max() / exact.std()
    assert worst < (0.15 if dtype == torch.bfloat16 else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention_mask", ["causal", "mask"])
@pytest.mark.parametrize(("width", "values"), [(6, 4), (4, 6), (5, 5)])
def test_fused_attention_takes_values_of_any_width(width: int, values: int, attention_mask: str) -> None:
    q, k = torch.randn(2, 2, 5, 4, width, dtype=torch.float64)
    v = torch.randn(2, 5, 4, values, dtype=torch.float64)
    seen = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril() if attention_mask == "mask" else "causal"
    with reference_path():
        plain = attend(q, k, v, seen, None)
    assert plain.shape == (2, 5, 4, values)
    assert_close(attend(q, k, v, seen, None), plain)


@torch.no_grad()
def test_the_entropy_reported_is_that_of_theexpanded_weights(
    layer_context: Callable[..., LayerContext], rough: Any, whole_rows: Callable[[Tensor], ForwardContext]
) -> None:
    x = torch.randn(1, LENGTH, DIM, dtype=torch.float64)
    found = []
    for absorb in ("on", "off"):
        torch.manual_seed(3)
        module = rough(MlaConfig(absorb=absorb).build(layer_context(positions=RopeConfig())))
        observed: dict[str, list[Tensor]] = {}
        module(x, ForwardContext(torch.arange(LENGTH)[None], observed=observed))
        found.append(observed["attention_entropy"][0].item())
    q, (k, _) = module.queries(x, whole_rows(x)), module.expanded(module.latents(x, whole_rows(x)))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(module.nope + module.rope)
    weights = scores.masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool(), -torch.inf).softmax(-1)
    entropy = torch.special.entr(weights).sum(-1).mean().item()
    assert found == pytest.approx([entropy, entropy], rel=1e-5)


def test_widths_default_to_the_proportions_of_deepseek_v2_lite(layer_context: Callable[..., LayerContext]) -> None:
    module = MlaConfig(latent_query=True).build(layer_context(dim=2048, heads=16, positions=RopeConfig()))
    assert (module.nope, module.rope, module.value, module.rank) == (128, 64, 128, 512)
    assert module.q_up.in_features == 1536


@pytest.mark.parametrize("positions", [NoPositionsConfig(), LearnedPositionsConfig()])
def test_without_rotating_positions_nothing_is_set_apart_for_them(
    positions: Any, layer_context: Callable[..., LayerContext]
) -> None:
    module = MlaConfig().build(layer_context(positions=positions))
    assert module.rope == 0
    assert module.kv_elements(1) == module.rank


@pytest.mark.parametrize(
    ("keys", "changes", "sentence"),
    [
        ({"rope_dim": 3}, {"positions": RopeConfig()}, "rope_dim = 3 is odd, and RoPE rotates pairs"),
        ({"rope_dim": 4}, {}, "rope_dim = 4 needs positions that rotate, and the recipe's do not"),
        ({"q_rank": 4}, {}, "q_rank = 4 needs latent_query: true"),
        ({"heads": 3}, {}, "heads = 3 does not divide dim = 16; valid: 1, 2, 4, 8, 16"),
    ],
)
def test_widths_that_do_not_fit_are_refused(
    keys: dict[str, Any], changes: dict[str, Any], sentence: str, layer_context: Callable[..., LayerContext]
) -> None:
    with pytest.raises(BadInput, match=sentence):
        MlaConfig(**keys).build(layer_context(**changes))


@pytest.mark.parametrize("key", ["kv_rank", "q_rank", "heads", "nope_dim", "value_dim"])
def test_a_width_of_zero_is_refused_in_one_sentence(key: str) -> None:
    with pytest.raises(BadInput, match=f"{key} = 0 is not valid: input should be greater than or equal to 1"):
        build("mla", overrides={f"mixer.{key}": 0})


@pytest.mark.parametrize("size", ["tiny", "mini", "small", "base"])
@pytest.mark.parametrize("name", ["mla", "deepseek", "minideepseek-small", "minideepseek-large"])
def test_a_row_of_the_size_table_leaves_no_width_of_another_size(name: str, size: str) -> None:
    with torch.device("meta"):
        model = build(name, size=size)
    mixer: Any = model.layers[0].mixer
    head = model.recipe.dim // model.recipe.heads
    assert (mixer.nope, mixer.rope, mixer.value, mixer.rank) == (head, head // 2, head, model.recipe.dim // 4)
    assert (mixer.q_down is not None) == (name == "deepseek")
