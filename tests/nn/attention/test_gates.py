"""Gated attention: the gate's formula, its control, and the mixers that take it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.nn import AttentionConfig, ForwardContext, Gate, GateConfig, LayerContext, MixerConfig, MlaConfig

CONFIGS = [
    GateConfig(kind=kind, score=score) for kind in ("headwise", "elementwise") for score in ("sigmoid", "ns_sigmoid")
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind}-{config.score}")
def test_a_gate_is_the_sigmoid_of_a_linear_map_of_what_makes_the_query(
    config: GateConfig,
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., Gate],
    whole_rows: Callable[[Tensor], ForwardContext],
) -> None:
    gate = rough(Gate(config, 4, 3, layer_context()))
    x, y = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 5, 4, 3, dtype=torch.float64)
    gated = gate(y, x, whole_rows(x))
    for head in range(4):
        for place in range(3):
            row = gate.map.weight[head * 3 + place if config.kind == "elementwise" else head]
            score = 1 / (1 + (-(x @ row)).exp())
            if config.score == "ns_sigmoid":
                score = 0.5 + 0.5 * score
            assert_close(gated[:, :, head, place], y[:, :, head, place] * score)


@pytest.mark.parametrize("mixer", [AttentionConfig, MlaConfig])
@pytest.mark.parametrize("fast", [True, False])
def test_closed_gates_leave_nothing_and_open_ones_everything(
    mixer: type[MixerConfig],
    fast: bool,
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., torch.nn.Module],
) -> None:
    plain = rough(mixer().build(layer_context()))
    gated = rough(mixer(gate=GateConfig()).build(layer_context()))
    gated.load_state_dict(plain.state_dict(), strict=False)
    x = torch.rand(2, 5, 16, dtype=torch.float64)
    ctx = ForwardContext(torch.arange(5).expand(2, 5))
    with torch.no_grad():
        for sign, expected in ((-1, torch.zeros_like(x)), (1, plain(x, ctx))):
            gated.output_gate.map.weight.fill_(sign * 1e6)
            assert_close(gated(x, ctx), expected)


def test_the_control_cannot_close(
    layer_context: Callable[..., LayerContext], whole_rows: Callable[[Tensor], ForwardContext]
) -> None:
    gate = Gate(GateConfig(score="ns_sigmoid"), 4, 3, layer_context())
    torch.nn.init.constant_(gate.map.weight, -1e6)
    x, y = torch.rand(1, 2, 16), torch.randn(1, 2, 4, 3)
    assert_close(gate(y, x, whole_rows(x)), y / 2)


def test_the_mean_gate_is_that_of_all_tokens_and_heads(
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., Gate],
    whole_rows: Callable[[Tensor], ForwardContext],
) -> None:
    gate = rough(Gate(GateConfig(kind="elementwise"), 4, 3, layer_context()))
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    observed: dict[str, list[Tensor]] = {}
    scores = gate(
        torch.ones(2, 5, 4, 3, dtype=torch.float64), x, ForwardContext(whole_rows(x).positions, observed=observed)
    )
    assert_close(observed["mean_gate"], [scores.mean()])


def test_an_elementwise_gate_in_latent_attention_is_as_wide_as_its_values(
    layer_context: Callable[..., LayerContext],
) -> None:
    mixer = MlaConfig(value_dim=6, gate=GateConfig(kind="elementwise")).build(layer_context())
    assert tuple(mixer.output_gate.map.weight.shape) == (4 * 6, 16)
