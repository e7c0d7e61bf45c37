"""Scalable-Softmax: the paper's Figure 1, and the factor s·log n + b."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.nn import ForwardContext, SSMax, SSMaxConfig, attend, attention_weights, reference_path

FIGURE_1 = {10: ("0.943", "0.940"), 100: ("0.600", "0.995"), 1000: ("0.129", "0.9996"), 10_000: ("0.0146", "0.99997")}


def scores_of_figure_1(n: int) -> tuple[Tensor, Tensor]:
    """A query and keys of width 1 whose scores are n-1 times -2 and once +3, the last."""
    keys = torch.full((1, n, 1, 1), -2.0, dtype=torch.float64)
    keys[0, -1] = 3
    return torch.ones(1, 1, 1, 1, dtype=torch.float64), keys


@pytest.mark.parametrize("n", FIGURE_1)
def test_figure_1_of_the_paper_is_reproduced(n: int, ctx: Callable[..., ForwardContext]) -> None:
    q, k = scores_of_figure_1(n)
    query_scale = SSMax(SSMaxConfig(init=0.43), heads=1)(ctx([n - 1])).detach()
    marked = (k == 3).double()  # read as values, the output is the weight of the +3 entry
    for printed, scale in zip(FIGURE_1[n], (None, query_scale), strict=True):
        decimals = len(printed) - 2
        assert round(float(attention_weights(q, k, "all", scale)[0, 0, 0, -1]), decimals) == float(printed)
        for fast in (True, False):
            with reference_path(not fast):
                assert round(float(attend(q, k, marked, "all", scale)), decimals) == float(printed)


def test_the_factor_is_s_log_n_plus_b_with_n_the_position_plus_1(ctx: Callable[..., ForwardContext]) -> None:
    ssmax = SSMax(SSMaxConfig(bias=True), heads=3).double()
    with torch.no_grad():
        ssmax.scale.copy_(torch.tensor([0.1, 0.5, -2.0]))
        ssmax.bias.copy_(torch.tensor([0.0, 1.0, 0.25]))
    positions = torch.tensor([[0, 1, 2, 3], [7, 0, 1, 1023]])
    query_scale = ssmax(ctx(positions))
    assert query_scale.shape == (2, 4, 3)
    for row in range(2):
        for t in range(4):
            for head, (s, b) in enumerate([(0.1, 0.0), (0.5, 1.0), (-2.0, 0.25)]):
                assert query_scale[row, t, head].item() == pytest.approx(s * math.log(int(positions[row, t]) + 1) + b)


def test_without_s_the_factor_is_log_n_and_nothing_is_learned(ctx: Callable[..., ForwardContext]) -> None:
    ssmax = SSMax(SSMaxConfig(learned=False), heads=3)
    assert list(ssmax.parameters()) == []
    assert_close(ssmax(ctx([0, 9, 99]))[0, :, 0], torch.tensor([1.0, 10.0, 100.0]).log())


def test_s_and_b_are_one_scalar_per_head_and_are_learned(ctx: Callable[..., ForwardContext]) -> None:
    ssmax = SSMax(SSMaxConfig(bias=True), heads=3)
    assert {name: tuple(p.shape) for name, p in ssmax.named_parameters()} == {"scale": (3,), "bias": (3,)}
    ssmax(ctx([1, 2])).sum().backward()
    assert ssmax.scale.grad.tolist() == pytest.approx([math.log(2) + math.log(3)] * 3)
    assert ssmax.bias.grad.tolist() == [2.0] * 3


def test_the_first_s_makes_the_mean_factor_1_over_1024_keys() -> None:
    log_n = SSMax(SSMaxConfig(learned=False), heads=1)(ForwardContext(torch.arange(1024)[None]))
    assert SSMaxConfig().init == round(1 / log_n.mean().item(), 3)


def test_a_window_bounds_n(ctx: Callable[..., ForwardContext]) -> None:
    ssmax, places = SSMax(SSMaxConfig(learned=False), heads=1), ctx([0, 2, 3, 4, 100])
    for window, keys in ((4, [1, 3, 4, 4, 4]), (None, [1, 3, 4, 5, 101])):
        assert_close(ssmax(places, window)[0, :, 0], torch.tensor(keys).log())


def test_the_factor_of_a_bf16_model_is_computed_in_fp32(ctx: Callable[..., ForwardContext]) -> None:
    query_scale = SSMax(SSMaxConfig(learned=False), heads=1).bfloat16()(ctx([4000, 4001]))
    assert query_scale.dtype == torch.float32
    assert query_scale[0, 1] > query_scale[0, 0]


def test_rows_of_a_step_that_agree_share_one_factor() -> None:
    ssmax = SSMax(SSMaxConfig(learned=False), heads=1)
    together = ssmax(ForwardContext(torch.arange(5, 9).expand(3, 4), start_pos=5))
    apart = ssmax(ForwardContext(torch.arange(5, 9).expand(3, 4), start_pos=None))
    assert together.shape == (1, 4, 1)
    assert_close(together.expand(3, 4, 1), apart)
