"""Costs as declared: caches, matrices and parameters that are larger than they say."""

import pytest
import torch
from torch import nn

from litmus.auditing import audit
from litmus.model import build
from litmus.nn import Attention, Mixer, attend, update_kv
from litmus.nn.core.forward_context import ForwardContext

ONLY = ("costs as declared",)


class Modest(Attention):
    """Declares a tenth of what it caches."""

    def kv_elements(self, capacity):
        return super().kv_elements(capacity) // 10


def test_a_cache_larger_than_declared_fails_this_check_alone(small, mixer):
    report = small(mixer=mixer(Modest))
    assert [finding.name for finding in report.failed] == ["costs as declared"]
    assert report.mark() == "fails audit: caches more than it declares"
    assert report["costs as declared"].where.endswith("buffers k (1, 1, 2, 16), v (1, 1, 2, 16)")


class KeysOfRankFour(Attention):
    """Keys and values come from four numbers per token, and are cached in full."""

    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        self.down = nn.Linear(layer_context.dim, 4, bias=False)
        self.up = nn.Linear(4, 2 * layer_context.dim, bias=False)

    def forward(self, x, ctx):
        q = self.qkv(x).unflatten(-1, (-1, self.head_dim))[:, :, : self.heads]
        k, v = self.up(self.down(x)).unflatten(-1, (-1, self.head_dim)).chunk(2, dim=2)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        return self.out(attend(q, k, v, ctx.attention_mask()).flatten(-2))


class Merged(KeysOfRankFour):
    def forward(self, x, ctx):
        full = self.up.weight @ self.down.weight
        q = self.qkv(x).unflatten(-1, (-1, self.head_dim))[:, :, : self.heads]
        k, v = (x @ full.T).unflatten(-1, (-1, self.head_dim)).chunk(2, dim=2)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        return self.out(attend(q, k, v, ctx.attention_mask()).flatten(-2))


def test_cached_numbers_of_low_rank_are_found_whatever_is_declared(small, mixer):
    finding = small(only=ONLY, mixer=mixer(KeysOfRankFour))["costs as declared"]
    assert finding.mark == "caches more than it needs"
    assert finding.detail == "'k' caches 32 elements per token that span 4 dimensions"
    assert finding.measured == 8 and finding.where.startswith("layer 0")


def test_low_rank_weights_that_are_multiplied_out_are_found(small, mixer):
    finding = small(only=ONLY, mixer=mixer(Merged))["costs as declared"]
    assert finding.mark == "merges low-rank weights into full ones"
    assert "32 x 64 matrix of rank 4" in finding.detail


class Window(Attention):
    """Reads the last 16 tokens and keeps all."""

    def forward(self, x, ctx):
        class Near(ForwardContext):
            def attention_mask(self, window=None):
                return ForwardContext.attention_mask(self, 16)

        near = Near(**{name: getattr(ctx, name) for name in ForwardContext.__dataclass_fields__})
        return super().forward(x, near)


def test_slots_that_are_never_read_again_are_found(small, mixer):
    finding = small(only=ONLY, mixer=mixer(Window))["costs as declared"]
    assert finding.status == "warning" and "oldest 20 of 80 slots of 'k'" in finding.detail


class KeepsAside(Attention):
    """Remembers what it decoded outside the cache."""

    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        self.kept = []

    def forward(self, x, ctx):
        if ctx.cache is not None:
            self.kept.append(x.detach())
        return super().forward(x, ctx)


def test_numbers_kept_outside_the_cache_are_found(small, mixer):
    finding = small(only=ONLY, mixer=mixer(KeepsAside))["costs as declared"]
    assert "outside the cache" in finding.detail and finding.measured == 2 * 32


def test_parameters_that_the_recipe_does_not_imply_are_found():
    model = build("standard", dim=32, heads=2, depth=1, vocab_size=61)
    model.layers[0].extra = nn.Parameter(torch.zeros(5))
    finding = audit(model, quick=True, only=ONLY)["costs as declared"]
    assert finding.mark == "has other parameters than it declares"


@pytest.mark.parametrize(
    "parts",
    [
        {"mixer": {"kind": "attention", "kv_heads": 1}},
        {"mixer": {"kind": "attention", "head_dim": 32}},
        {"mixer": {"kind": "mla", "kv_rank": 8}},
        {"feedforward": {"kind": "moe", "experts": 4}},
        {"norm": {"kind": "layernorm"}, "positions": {"kind": "none"}},
        {"vocab_size": 7},
    ],
)
def test_no_honest_architecture_is_called_wasteful(small, parts):
    assert small(only=ONLY, **parts).failed == []


def test_a_cache_of_fewer_slots_than_tokens_is_judged_by_its_slots(small):
    report = small(mixer={"kind": "window", "window": 20, "sinks": 2}, only=("costs as declared",))
    assert report.passed


class Accumulated(nn.Module):
    """A product as a loop of scaled additions."""

    def __init__(self, dim):
        super().__init__()
        self.up, self.down = (
            nn.Parameter(0.1 * torch.randn(dim, 2 * dim)),
            nn.Parameter(0.1 * torch.randn(2 * dim, dim)),
        )

    def product(self, x, weight):
        y = torch.zeros(*x.shape[:-1], weight.shape[1], dtype=x.dtype)
        for number, row in enumerate(weight):
            y = self.added(y, x[..., number : number + 1], row)
        return y

    def added(self, y, channel, row):
        return y + channel * row

    def forward(self, x):
        return self.product(self.product(x, self.up).relu(), self.down)


class Fused(Accumulated):
    def added(self, y, channel, row):
        return torch.addcmul(y, channel, row)


class Bilinear(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(dim, 16), nn.Linear(dim, 16), nn.Linear(16, dim)
        self.weight = nn.Parameter(0.1 * torch.randn(16, 16, 16))

    def forward(self, x):
        return self.out(nn.functional.bilinear(self.a(x), self.b(x), self.weight))


class Narrow(nn.Module):
    """Products too few to matter beside attention over a long text, and yet all of a feedforward's."""

    def __init__(self, dim):
        super().__init__()
        self.up = nn.Parameter(torch.randn(dim, dim // 2) * dim**-0.5)
        self.down = nn.Parameter(torch.randn(dim // 2, dim) * 0.02)

    def forward(self, x):
        hidden = (x.unsqueeze(-1) * self.up).sum(-2).relu()
        return (hidden.unsqueeze(-1) * self.down).sum(-2)


class DenseBag(nn.Module):
    """A weighted sum of all rows of a table by `embedding_bag`, which is a matrix product."""

    def __init__(self, dim):
        super().__init__()
        self.weigh, self.table = nn.Linear(dim, 256), nn.Parameter(0.1 * torch.randn(256, dim))

    def forward(self, x):
        weights = self.weigh(x).softmax(-1).flatten(0, -2)
        slots = torch.arange(256).expand(len(weights), -1)
        return nn.functional.embedding_bag(slots, self.table, per_sample_weights=weights, mode="sum").view_as(x)


class Distances(nn.Module):
    """All distances to 256 points, without a matrix product."""

    def __init__(self, dim):
        super().__init__()
        self.points, self.out = nn.Parameter(torch.randn(256, dim)), nn.Linear(256, dim)

    def forward(self, x):
        return self.out(-torch.cdist(x, self.points, compute_mode="donot_use_mm_for_euclid_dist"))


@pytest.mark.parametrize("feedforward", [Accumulated, Fused, Bilinear, Narrow, DenseBag, Distances])
def test_products_that_no_counter_sees_are_counted(small, feedforward):
    finding = small(only=ONLY, feedforward=feedforward)["costs as declared"]
    assert finding.mark == "takes FLOPs that are not counted"


class WideValues(Mixer):
    """Attention with keys of width 4 and values as wide as the model."""

    def __init__(self, layer):
        super().__init__()
        self.widths = {"q": 4, "k": 4, "v": layer.dim}
        self.parts = nn.ModuleDict({name: nn.Linear(layer.dim, 2 * width) for name, width in self.widths.items()})
        self.out = nn.Linear(2 * layer.dim, layer.dim)

    def forward(self, x, ctx):
        q, k, v = (part(x).unflatten(-1, (2, -1)) for part in self.parts.values())
        if ctx.cache is not None:
            k, v = (update_kv(ctx.cache[name], new, ctx) for name, new in (("k", k), ("v", v)))
        return self.out(attend(q, k, v, ctx.attention_mask()).flatten(-2))

    def new_cache(self, batch, capacity, *, device, dtype):
        sizes = {name: (batch, capacity, 2, self.widths[name]) for name in "kv"}
        return {name: torch.zeros(size, device=device, dtype=dtype) for name, size in sizes.items()}


def test_values_wider_than_keys_take_the_flops_that_are_reported(small):
    finding = small(only=ONLY, mixer=WideValues)["costs as declared"]
    assert finding.status == "pass", finding.detail


class SameTokenOnly(Attention):
    """Attention to earlier occurrences of the same token; the cache holds ids too, and the number of tokens."""

    def forward(self, x, ctx):
        q, k, v = self.qkv_proj(x, ctx)
        ids = keys = ctx.token_ids + 1
        if ctx.cache is not None:
            keys = update_kv(ctx.cache["ids"], ids, ctx)
            k, v = (update_kv(ctx.cache[name], new, ctx) for name, new in (("k", k), ("v", v)))
        same = (ids[:, :, None] == keys[:, None])[:, None]
        return self.out_proj(attend(q, k, v, ctx.causal_mask() & same), x, ctx)

    def new_cache(self, batch, capacity, *, device, dtype):
        ids = torch.zeros(batch, capacity, device=device, dtype=torch.long)
        return {**super().new_cache(batch, capacity, device=device, dtype=dtype), "ids": ids}

    def kv_elements(self, capacity):
        return super().kv_elements(capacity) + capacity


def test_a_cache_may_hold_the_ids_of_tokens(small):
    finding = small(only=ONLY, mixer=SameTokenOnly)["costs as declared"]
    assert finding.status == "pass", finding.detail
