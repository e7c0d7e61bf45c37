"""What attention tells about its weights, against the weights themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.nn import Step, attention_weights
from litmus.nn.observing import observe_attention


@pytest.mark.parametrize("factor", [None, torch.rand(1, 7, 1), torch.rand(2, 7, 4)])
def test_the_weight_of_the_first_token_is_the_mean_over_rows_heads_and_queries(
    factor: Tensor | None, whole_rows: Callable[[Tensor], Step]
) -> None:
    q, k = torch.randn(2, 7, 4, 8), torch.randn(2, 7, 2, 8)
    observed: dict[str, list[Tensor]] = {}
    observe_attention(q, k, "causal", factor, Step(whole_rows(q[:, :, 0]).positions, observed=observed))
    assert_close(observed["first_token_attention"], [attention_weights(q, k, "causal", factor)[..., 0].mean()])


def test_equal_scores_give_the_first_token_its_share_of_each_query(whole_rows: Callable[[Tensor], Step]) -> None:
    q = torch.zeros(1, 3, 1, 8)
    observed: dict[str, list[Tensor]] = {}
    observe_attention(q, q, "causal", None, Step(whole_rows(q[:, :, 0]).positions, observed=observed))
    assert observed["first_token_attention"][0].item() == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_nothing_is_computed_when_nobody_asks(whole_rows: Callable[[Tensor], Step]) -> None:
    step = whole_rows(torch.zeros(1, 3, 8))
    observe_attention(None, None, "causal", None, step)  # type: ignore[arg-type]
    assert step.observed is None
