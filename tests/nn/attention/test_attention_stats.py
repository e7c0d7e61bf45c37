"""What attention tells about its weights, against the weights themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from litmus.diagnostics import layer_stats
from litmus.model import build
from litmus.nn import ForwardContext, attention_weights
from litmus.nn.attention import stats as observing
from litmus.nn.attention.stats import observe_attention


@pytest.mark.parametrize("query_scale", [None, torch.rand(1, 7, 1), torch.rand(2, 7, 4)])
def test_the_weight_of_the_first_token_is_the_mean_over_rows_heads_and_queries(
    query_scale: Tensor | None, whole_rows: Callable[[Tensor], ForwardContext]
) -> None:
    q, k = torch.randn(2, 7, 4, 8), torch.randn(2, 7, 2, 8)
    observed: dict[str, list[Tensor]] = {}
    observe_attention(q, k, "causal", query_scale, ForwardContext(whole_rows(q[:, :, 0]).positions, observed=observed))
    assert_close(observed["first_token_attention"], [attention_weights(q, k, "causal", query_scale)[..., 0].mean()])


def test_equal_scores_give_the_first_token_its_share_of_each_query(
    whole_rows: Callable[[Tensor], ForwardContext],
) -> None:
    q = torch.zeros(1, 3, 1, 8)
    observed: dict[str, list[Tensor]] = {}
    observe_attention(q, q, "causal", None, ForwardContext(whole_rows(q[:, :, 0]).positions, observed=observed))
    assert observed["first_token_attention"][0].item() == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


@pytest.mark.slow
def test_of_long_texts_evenly_spread_queries_stand_for_all(
    whole_rows: Callable[[Tensor], ForwardContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k = torch.randn(2, 600, 4, 8), torch.randn(2, 600, 2, 8)
    weights = attention_weights(q, k, "causal", None)
    for queries, held in ((100, 2**22), (100, 999), (600, 999)):
        monkeypatch.setattr(observing, "MAX_MEASURED_QUERIES", queries)
        monkeypatch.setattr(observing, "MAX_WEIGHTS_IN_MEMORY", held)
        observed: dict[str, list[Tensor]] = {}
        observe_attention(q, k, "causal", None, ForwardContext(whole_rows(q[:, :, 0]).positions, observed=observed))
        some = torch.linspace(0, 599, queries).round().long()
        of_some = weights[:, :, some]
        assert_close(observed["attention_entropy"][0], torch.special.entr(of_some).sum(-1).mean(), rtol=1e-5, atol=0)
        assert_close(observed["first_token_attention"][0], of_some[..., 0].mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["standard", "window-sinks", "compressed", "mla", "worker", "moe"])
def test_no_allocation_grows_with_the_square_of_the_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 1500
    monkeypatch.setattr(observing, "MAX_MEASURED_QUERIES", 16)
    model = build(name, vocab_size=61, dim=16, depth=2, heads=2, context=length, **WINDOWS.get(name, {})).eval()
    largest = Largest()
    with largest, torch.no_grad():
        layer_stats(model, torch.randint(61, (1, length)))
    assert largest.numel < length * length / 4


WINDOWS: dict[str, Any] = {"window-sinks": {"mixer.window": 64}, "compressed": {"mixer.window": 64, "mixer.block": 16}}


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_nothing_is_computed_when_nobody_asks(whole_rows: Callable[[Tensor], ForwardContext]) -> None:
    ctx = whole_rows(torch.zeros(1, 3, 8))
    observe_attention(None, None, "causal", None, ctx)  # type: ignore[arg-type]
    assert ctx.observed is None
