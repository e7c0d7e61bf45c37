"""Mixture of experts: a router selects a few of many feedforwards for each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.nn.core.batch import use_reference
from litmus.nn.core.forward_context import ForwardContext, has_values
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part, parse_config, takes_context
from litmus.nn.layers.dropout import Dropout
from litmus.nn.layers.feedforwards import FeedforwardConfig, Swiglu, SwigluConfig, swiglu_hidden
from litmus.nn.layers.linear import INIT_STD, residual_std
from litmus.nn.moe.routers import RouterConfig, Routing, SoftmaxRouterConfig
from litmus.nn.moe.stats import record_routing


class MoeConfig(FeedforwardConfig):
    """`top_k` of `experts` experts per token, plus `shared` experts that process every token.

    hidden: inner width of one expert; by default a token's experts together are as wide as a dense SwiGLU.
    """

    size_keys: ClassVar[tuple[str, ...]] = ("hidden",)
    kind: Literal["moe"] = "moe"
    experts: int = Field(8, ge=1)
    top_k: int = Field(2, ge=1)
    shared: int = Field(0, ge=0)
    hidden: int | None = Field(None, ge=1)
    router: Any = SoftmaxRouterConfig()

    @field_validator("router", mode="before")
    @classmethod
    def _declared(cls, raw: Any) -> Part:
        return parse_config(RouterConfig, raw)

    def build(self, layer: LayerContext) -> MixtureOfExperts:
        return MixtureOfExperts(self, layer)


class MixtureOfExperts(nn.Module):
    """sum over selected experts e of gate_e · E_e(x), plus the shared experts; no token is dropped.

    Shazeer et al. 2017 (arXiv 1701.06538); shared experts: Dai et al. 2024, DeepSeekMoE (arXiv 2401.06066).
    """

    def __init__(self, config: MoeConfig, layer: LayerContext) -> None:
        super().__init__()
        if config.top_k > config.experts:
            raise BadInput(f"top_k = {config.top_k} is more than experts = {config.experts}")
        hidden = config.hidden or expert_hidden(layer.dim, config.top_k + config.shared)
        self.router = config.router.build(layer, config.experts, config.top_k)
        self._router_takes_context = takes_context(self.router)
        self.experts = Experts(config.experts, config.top_k, hidden, layer)
        self.shared = Swiglu(SwigluConfig(hidden=config.shared * hidden), layer) if config.shared else None

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        tokens = x.flatten(0, 1)
        routing = self.router(tokens, ctx) if self._router_takes_context else self.router(tokens)
        if ctx.aux_losses is not None and hasattr(self.router, "add_aux_losses"):
            self.router.add_aux_losses(routing, ctx)
        if ctx.observed is not None:
            record_routing(routing, ctx)
        y = self.experts(tokens, routing).view_as(x)
        return y if self.shared is None else y + self.shared(x, ctx)


class Experts(nn.Module):
    """E SwiGLUs, W_down (silu(W_gate x) · W_up x) each, in stacked weights: (E, 2·hidden, dim) and (E, dim, hidden)."""

    matrices: ClassVar[tuple[str, ...]] = ("gate_up", "down")  # stacks of matrices, for the optimizer

    def __init__(self, experts: int, top_k: int, hidden: int, layer: LayerContext) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * hidden, layer.dim))
        self.down = nn.Parameter(torch.empty(experts, layer.dim, hidden))
        nn.init.normal_(self.gate_up, std=INIT_STD)
        nn.init.normal_(self.down, std=residual_std(layer))
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """The gated sum of the selected experts' outputs for each of the tokens x (N, dim)."""
        if use_reference():
            return self._loop(x, routing)
        if len(x) == 1 and x.device.type == "cpu" and not torch.is_grad_enabled():
            return self._single_token(x, routing)
        return self._sorted(x, routing)

    def inactive_parameters(self) -> int:
        """Number of parameters that one token does not use."""
        return (self.gate_up[0].numel() + self.down[0].numel()) * (len(self.down) - self.top_k)

    def _loop(self, x: Tensor, routing: Routing) -> Tensor:
        """The reference: a loop over experts, each applied to the tokens that selected it."""
        out = torch.zeros_like(x)
        for expert in range(len(self.down)):
            token, choice = (routing.experts == expert).nonzero(as_tuple=True)
            y = self._expert(x[token], expert) * routing.gates[token, choice, None]
            out = out.index_add(0, token, y.to(out.dtype))
        return out

    def _single_token(self, x: Tensor, routing: Routing) -> Tensor:
        """One token on a CPU, where sorting and grouping would take as long as the matmuls."""
        outputs = torch.cat([self._expert(x, expert) for expert in routing.experts[0].tolist()])  # (K, dim)
        return (routing.gates.to(outputs.dtype) @ outputs).to(x.dtype)

    def _sorted(self, x: Tensor, routing: Routing) -> Tensor:
        """The fast path: sort by expert, one grouped matmul per matrix, sum over the experts of each token."""
        chosen, order = routing.experts.flatten().sort(stable=True)
        numbers = torch.arange(len(self.down), device=x.device)
        ends = torch.searchsorted(chosen, numbers, right=True, out_int32=True)
        gate, up = grouped_linear(_Dispatch.apply(x, order, self.top_k), self.gate_up, ends).chunk(2, dim=-1)
        y = grouped_linear(self.dropout(F.silu(gate) * up), self.down, ends)
        return _Combine.apply(y * routing.gates.flatten()[order, None].to(y.dtype), order, self.top_k).to(x.dtype)

    def expert_hidden(self, x: Tensor, expert: int) -> Tensor:
        """silu(W_gate x) · W_up x of one expert for tokens x (N, dim): (N, hidden), the input of its W_down."""
        gate, up = F.linear(x, self.gate_up[expert]).chunk(2, dim=-1)
        return self.dropout(F.silu(gate) * up)

    def _expert(self, x: Tensor, expert: int) -> Tensor:
        return F.linear(self.expert_hidden(x, expert), self.down[expert])


def expert_hidden(dim: int, active: int) -> int:
    """Inner width of one of `active` experts that together are as wide as a dense SwiGLU; a multiple of 16."""
    return -(-swiglu_hidden(dim) // (16 * active)) * 16


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x_j W_eᵀ for rows x (M, in), weight (E, out, in); group e ends before row `ends`[e], ends (E,)."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        x, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (x, weight))
    if not has_values(ends):
        return F.linear(x, weight[0])  # `ends` has no values, but shapes and costs do not depend on them
    aligned = all(size * x.element_size() % 16 == 0 for size in weight.shape[1:])
    if aligned and x.dtype in (torch.bfloat16, torch.float32, torch.float16):
        if x.dtype == torch.bfloat16 or not torch.compiler.is_compiling():
            return F.grouped_mm(x, weight.mT, offs=ends)
        # torch.compile assumes that grouped_mm is for bf16 only, although it supports these dtypes too.
        if "grouped_mm" not in _UNCOMPILED:
            _UNCOMPILED["grouped_mm"] = torch.compiler.disable(F.grouped_mm)
        return _UNCOMPILED["grouped_mm"](x, weight.mT, offs=ends)
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return torch.cat([F.linear(rows, w) for rows, w in zip(x.split(sizes), weight, strict=True)])


_UNCOMPILED: dict[str, Callable[..., Tensor]] = {}
"""grouped_mm excluded from torch.compile; created when needed, as the decorator imports the compiler."""


class _Dispatch(torch.autograd.Function):
    """Gather the inputs of experts: row i is token `order`[i] // K of x (N, dim). Its backward is `_Combine`.

    Custom because the backward of torch's indexing uses atomic additions, which are slow and not deterministic.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.top_k = top_k
        return x[order // top_k]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (order,) = ctx.saved_tensors
        return _combined(upstream[0], order, ctx.top_k), None, None


class _Combine(torch.autograd.Function):
    """Sum the K rows of each token in y (N·K, dim), which has the order of `order`. Its backward is `_Dispatch`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, order: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.top_k = top_k
        return _combined(y, order, top_k)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (order,) = ctx.saved_tensors
        return upstream[0][order // ctx.top_k], None, None


def _combined(rows: Tensor, order: Tensor, top_k: int) -> Tensor:
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return rows[inverse].unflatten(0, (-1, top_k)).sum(1)
