"""Position encodings against their formulas."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from litmus.errors import BadInput
from litmus.nn import ForwardContext, LayerContext, Rotation
from litmus.nn.layers.positions import LearnedPositionsConfig, NoPositionsConfig, RopeConfig, SinusoidalPositionsConfig


@pytest.mark.parametrize("theta", [100.0, 10_000.0])
def test_rope_turns_each_pair_as_a_complex_number(theta: float, ctx: Callable[..., ForwardContext]) -> None:
    width = 8
    x = torch.randn(2, 3, 2, width, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2], [5, 1000, 3]])
    turned = Rotation(width, theta)(x, ctx(positions))
    for row, t, head, pair in torch.cartesian_prod(*map(torch.arange, (2, 3, 2, width // 2))).tolist():
        before = complex(x[row, t, head, pair], x[row, t, head, pair + width // 2])
        after = before * cmath.exp(1j * int(positions[row, t]) * theta ** (-2 * pair / width))
        assert turned[row, t, head, pair].item() == pytest.approx(after.real)
        assert turned[row, t, head, pair + width // 2].item() == pytest.approx(after.imag)


@given(query=st.integers(0, 500), distance=st.integers(-300, 300), shift=st.integers(0, 2000))
def test_rope_scores_depend_on_the_distance_alone(query: int, distance: int, shift: int) -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    rotation = Rotation(16, 10_000.0)

    def score(at: int) -> float:
        places = [torch.tensor([[at + query + 300]]), torch.tensor([[at + query + 300 - distance]])]
        turned = [rotation(x, ForwardContext(place, None)) for x, place in zip((q, k), places, strict=True)]
        return float((turned[0] * turned[1]).sum())

    assert score(0) == pytest.approx(score(shift), abs=1e-9)


def test_rope_keeps_lengths_and_leaves_position_0_alone(ctx: Callable[..., ForwardContext]) -> None:
    x = torch.randn(1, 4, 2, 8, dtype=torch.float64)
    turned = Rotation(8, 10_000.0)(x, ctx([0, 1, 2, 77]))
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert_close(turned[:, 0], x[:, 0])


def test_rope_angles_are_computed_in_fp32_for_bf16_vectors(ctx: Callable[..., ForwardContext]) -> None:
    x = torch.zeros(1, 1, 1, 2)
    x[..., 0] = 1
    turned = Rotation(2, 10_000.0)(x.bfloat16(), ctx([3001]))
    assert turned.dtype == torch.bfloat16
    assert turned[0, 0, 0, 0].item() == pytest.approx(math.cos(3001), abs=4e-3)


def test_only_rope_rotates() -> None:
    configs = (NoPositionsConfig(), LearnedPositionsConfig(), SinusoidalPositionsConfig())
    assert [config.rotation(8) for config in configs] == [None] * 3
    assert isinstance(RopeConfig().rotation(8), Rotation)


def test_rope_and_no_positions_add_nothing(
    layer_context: Callable[..., LayerContext], ctx: Callable[..., ForwardContext]
) -> None:
    x = torch.randn(1, 3, 16)
    for config in (RopeConfig(), NoPositionsConfig()):
        assert torch.equal(config.build(layer_context())(x, ctx([4, 5, 6])), x)


@pytest.mark.parametrize("amplitude", [1.0, 0.02])
def test_sinusoids_follow_their_formula(
    amplitude: float, layer_context: Callable[..., LayerContext], ctx: Callable[..., ForwardContext]
) -> None:
    dim = 6
    positions = torch.tensor([[0, 1, 9], [4000, 2, 3]])
    add = SinusoidalPositionsConfig(amplitude=amplitude).build(layer_context(dim=dim))
    table = add(torch.zeros(2, 3, dim, dtype=torch.float64), ctx(positions))
    for row, t, i in torch.cartesian_prod(*map(torch.arange, (2, 3, dim // 2))).tolist():
        angle = int(positions[row, t]) / 10_000 ** (2 * i / dim)
        assert table[row, t, 2 * i].item() == pytest.approx(amplitude * math.sin(angle))
        assert table[row, t, 2 * i + 1].item() == pytest.approx(amplitude * math.cos(angle))


@pytest.mark.parametrize("config", [LearnedPositionsConfig(), SinusoidalPositionsConfig()])
def test_rows_that_agree_get_what_rows_of_their_own_would(
    config: LearnedPositionsConfig, layer_context: Callable[..., LayerContext]
) -> None:
    add = config.build(layer_context())
    x, places = torch.randn(3, 4, 16), torch.arange(5, 9).expand(3, 4)
    assert_close(
        add(x, ForwardContext(places, start_pos=5, kv_len=9)), add(x, ForwardContext(places, start_pos=None, kv_len=9))
    )


def test_learned_positions_add_the_vector_of_each_position(
    layer_context: Callable[..., LayerContext], ctx: Callable[..., ForwardContext]
) -> None:
    add = LearnedPositionsConfig().build(layer_context(context=10))
    assert add.weight.shape == (10, 16)
    found = add(torch.zeros(2, 2, 16), ctx([[3, 9], [0, 3]]))
    assert torch.equal(found, add.weight[torch.tensor([[3, 9], [0, 3]])])


def test_learned_positions_say_where_they_end(layer_context: Callable[..., LayerContext]) -> None:
    add = LearnedPositionsConfig().build(layer_context(context=10))
    x = torch.zeros(1, 11, 16)
    with pytest.raises(BadInput, match=r"end at 10 tokens.*the sequence has 11.*context=11"):
        add(x, ForwardContext(torch.arange(11)[None]))
    with pytest.raises(BadInput, match="the sequence has 13"):
        add(x[:, :1], ForwardContext(torch.tensor([[12]]), start_pos=12, kv_len=13))


def test_padding_does_not_use_up_learned_positions(
    layer_context: Callable[..., LayerContext], ctx: Callable[..., ForwardContext]
) -> None:
    add = LearnedPositionsConfig().build(layer_context(context=4))
    places = [0, 0, 0, 1, 2, 3]
    assert add(torch.zeros(1, 6, 16), ctx(places)).shape == (1, 6, 16)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda layer_context: RopeConfig().rotation(7), "a head is 7 wide"),
        (lambda layer_context: SinusoidalPositionsConfig().build(layer_context(dim=7)), "dim is 7"),
    ],
)
def test_odd_widths_are_refused(
    build: Callable[..., object], sentence: str, layer_context: Callable[..., LayerContext]
) -> None:
    with pytest.raises(BadInput, match=sentence):
        build(layer_context)
