"""Sound designs that are unlike the built-in ones pass: each has been taken for a fault once."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

import litmus
from litmus.nn import Attention, update_kv
from litmus.nn.layers.feedforwards import Swiglu, SwigluConfig


def failed(report):
    return {finding.name: finding.detail for finding in report.failed}


class FunctionalDropout(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.inner = Swiglu(SwigluConfig(hidden=64), layer)

    def forward(self, x, ctx):
        return F.dropout(self.inner(x, ctx), 0.1, self.training)


class StochasticDepth(FunctionalDropout):
    def forward(self, x, ctx):
        skipped = self.training and torch.rand(()) < 0.2
        return torch.zeros_like(x) if skipped else self.inner(x, ctx)


def test_noise_in_training_is_no_untrained_prediction(small, feedforward):
    for kind in (FunctionalDropout, StochasticDepth):
        report = small(only=("coverage",), feedforward=feedforward(lambda config, layer, kind=kind: kind(layer)))
        assert failed(report) == {}


class IndexedExperts(nn.Module):
    """Tokens are picked by a boolean index, whose shape depends on values."""

    def __init__(self, layer):
        super().__init__()
        self.router = nn.Linear(layer.dim, 4, bias=False)
        self.experts = nn.ModuleList(Swiglu(SwigluConfig(hidden=32), layer) for _ in range(4))

    def forward(self, x, ctx):
        flat = x.flatten(0, 1)
        p, chosen = self.router(flat).softmax(-1).topk(2, dim=-1)
        y = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            y = y.index_add(0, rows, p[rows, slot, None] * expert(flat[rows][None], ctx)[0])
        return y.view_as(x)


def test_experts_whose_tokens_are_picked_by_an_index_have_a_cost(small, feedforward):
    report = small(only=("costs as declared",), feedforward=feedforward(lambda config, layer: IndexedExperts(layer)))
    assert failed(report) == {}


class RelativeBias(Attention):
    """T5's table by distance, logarithmic from 8 to 64: a text of 48 tokens does not reach its last rows."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.bias = nn.Parameter(0.02 * torch.randn(16, self.heads))

    def scores(self, q, k, ctx):
        distance = (ctx.positions[:, :, None] - ctx.key_positions[:, None]).clamp(min=0)
        far = 8 + (torch.log(distance.clamp(min=1).to(q.dtype) / 8) / math.log(8) * 8).long()
        bucket = torch.where(distance < 8, distance, far.clamp(max=15))
        return super().scores(q, k, ctx) + self.bias[bucket].movedim(-1, 1)


def test_a_table_by_distance_is_trained_at_the_context(small, mixer):
    assert failed(small(only=("coverage",), mixer=mixer(RelativeBias))) == {}


class Forgetting(Attention):
    """Scores fall by the sum of log forget gates: old slots have less effect than rounding, but are read."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.forget = nn.Linear(layer.dim, self.heads)

    def forward(self, x, ctx):
        q, k, v = self.qkv_proj(x, ctx)
        total = F.logsigmoid(self.forget(x)).cumsum(1)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
            total = total + ctx.cache["total"][:, None]
            ctx.cache["total"].copy_(total[:, -1])
            keys = update_kv(ctx.cache["c"], total, ctx)
        else:
            keys = total
        scores = torch.einsum("bthd,bshd->bhts", q, k) / self.head_dim**0.5
        scores = scores + total.transpose(1, 2)[..., None] - keys.transpose(1, 2)[:, :, None]
        weights = scores.masked_fill(~ctx.causal_mask(), -torch.inf).softmax(-1)
        return self.out_proj(torch.einsum("bhts,bshd->bthd", weights.to(v.dtype), v), x, ctx)

    def new_cache(self, batch, capacity, *, device, dtype):
        more = {"c": (batch, capacity, self.heads), "total": (batch, self.heads)}
        zeros = {name: torch.zeros(shape, device=device, dtype=dtype) for name, shape in more.items()}
        return {**super().new_cache(batch, capacity, device=device, dtype=dtype), **zeros}

    def kv_elements(self, capacity):
        return super().kv_elements(capacity) + self.heads * (capacity + 1)


def test_slots_that_fade_are_read(small, mixer):
    report = small(
        only=("costs as declared",), limit=600, mixer=mixer(Forgetting), context=240, positions={"kind": "none"}
    )
    assert failed(report) == {}


class StartState(nn.Module):
    """An Elman network, whose first product is with a state of zeros."""

    def __init__(self, dim):
        super().__init__()
        self.into, self.again = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        state, states = x.new_zeros(len(x), x.shape[-1]), []
        for token in x.unbind(1):
            state = (self.into(token) + self.again(state)).tanh()
            states.append(state)
        return torch.stack(states, 1)


def test_a_start_state_of_zeros_is_no_merged_matrix(small):
    assert failed(small(only=("costs as declared",), mixer=StartState)) == {}


class LongFilter(nn.Module):
    """A causal filter per channel, as long as the context: a longer text is an index error."""

    def __init__(self, layer):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(layer.context, layer.dim) / torch.arange(1, layer.context + 1)[:, None])

    def forward(self, x):
        index = torch.arange(x.shape[1])
        lag = index[:, None] - index
        taps = self.filter[lag.clamp(min=0)] * (lag >= 0)[..., None]
        return torch.einsum("tsd,bsd->btd", taps, x)


def test_a_filter_that_ends_at_the_context_is_audited_up_to_there(small):
    report = small(only=("prefix consistency",), mixer=LongFilter)
    assert failed(report) == {} and report["prefix consistency"].status == "pass"


class SeparateKeys(Attention):
    """The softmax does not see a bias of the keys, whose gradient is 0 but for rounding."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        del self.qkv
        self.maps = nn.ModuleList(nn.Linear(layer.dim, layer.dim) for _ in range(3))

    def qkv_proj(self, x, ctx):
        return tuple(map(x).unflatten(-1, (self.heads, self.head_dim)) for map in self.maps)


def test_gradients_that_are_zero_but_for_rounding_are_not_compared(small, mixer):
    parts = {"mixer": mixer(SeparateKeys), "positions": {"kind": "learned"}}
    assert failed(small(only=("equivalence",), **parts)) == {}


class BiasByDistance(Attention):
    """A network of the distance, whose hidden layer is a product of weights and constants (FIRE, arXiv 2310.04418)."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.network = nn.Sequential(nn.Linear(1, 24), nn.GELU(), nn.Linear(24, self.heads))

    def scores(self, q, k, ctx):
        distance = (ctx.positions[:, :, None] - ctx.key_positions[:, None]).clamp(min=0).to(q.dtype)
        return super().scores(q, k, ctx) + self.network(distance[..., None].log1p()).movedim(-1, 1)


def test_a_network_of_the_distance_multiplies_no_activation(small, mixer):
    assert failed(small(only=("costs as declared",), mixer=mixer(BiasByDistance))) == {}


class BranchesFromZero(nn.Module):
    """ReZero: branches behind gates that are zero at birth, no norms, no positions."""

    def __init__(self, width=64, vocab_size=89):
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, 80
        self.wte = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.wte.weight, std=width**-0.5)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(3))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(3))
        self.gates = nn.Parameter(torch.zeros(3, 2))

    def forward(self, idx, targets=None):
        x = self.wte(idx) * 8
        for qkv, out, up, down, gates in zip(self.qkv, self.out, self.up, self.down, self.gates, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + gates[0] * out(y.transpose(1, 2).flatten(2))
            x = x + gates[1] * down(F.mish(up(x)))
        logits = F.linear(x, self.wte.weight) / 8
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def test_branches_whose_gates_are_zero_at_birth_can_learn():
    torch.manual_seed(0)
    assert failed(litmus.audit(BranchesFromZero(), quick=True, only=("overfits one batch",))) == {}
