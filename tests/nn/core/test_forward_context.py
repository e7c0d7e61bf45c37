"""Which keys a query may read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from litmus.nn import ForwardContext

CACHE: dict[str, Tensor] = {}


def positions(documents: list[int], valid: list[bool]) -> Tensor:
    """The place of each token among the real ones of its document."""
    places, seen = [], {}
    for document, real in zip(documents, valid, strict=True):
        places.append(max(0, seen.get(document, 0) - 1 + real))
        seen[document] = seen.get(document, 0) + real
    return torch.tensor([places])


@given(data=st.data(), length=st.integers(1, 8), window=st.none() | st.integers(1, 9))
def test_a_real_token_reads_the_real_tokens_of_its_document_up_to_itself(
    data: st.DataObject, length: int, window: int | None
) -> None:
    steps = data.draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))
    documents = torch.tensor([steps]).cumsum(1)
    valid = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    places = positions(documents[0].tolist(), valid)
    mask = ForwardContext(places, None, torch.tensor([valid]), documents).attention_mask(window)
    assert isinstance(mask, Tensor) and mask.shape == (1, 1, length, length)
    for query in [t for t in range(length) if valid[t]]:
        readable = [t for t in range(query + 1) if valid[t] and documents[0, t] == documents[0, query]]
        assert torch.nonzero(mask[0, 0, query])[:, 0].tolist() == readable[-(window or length) :]


def test_padding_reads_itself_so_that_no_row_is_without_keys() -> None:
    valid = torch.tensor([[False, False, True, True]])
    mask = ForwardContext(torch.tensor([[0, 0, 0, 1]]), None, valid).attention_mask()
    assert isinstance(mask, Tensor)
    assert mask[0, 0].any(-1).all()
    assert mask[0, 0, 0].tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("start", "length", "expected"), [(0, 5, "causal"), (0, 1, "causal"), (3, 1, "all"), (3, 2, None)]
)
def test_whole_rows_need_no_mask(start: int, length: int, expected: str | None) -> None:
    ctx = ForwardContext(torch.arange(start, start + length)[None], start, cache=CACHE, kv_len=start + length)
    found = ctx.attention_mask()
    assert found == expected if expected else isinstance(found, Tensor)


@given(
    starts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    length=st.integers(1, 4),
    together=st.booleans(),
    window=st.none() | st.integers(1, 6),
)
def test_a_decoded_token_reads_the_slots_up_to_its_own(
    starts: list[int], length: int, together: bool, window: int | None
) -> None:
    if together:
        starts = starts[:1] * len(starts)
    places = torch.tensor(starts)[:, None] + torch.arange(length)
    used = max(starts) + length
    found = ForwardContext(places, starts[0] if together else None, cache=CACHE, kv_len=used).attention_mask(window)
    shape = (len(starts), length, used)
    if found == "causal":
        found = torch.ones(length, used).tril().bool()
    mask = (
        torch.ones(shape).bool()
        if found == "all"
        else torch.as_tensor(found).expand(len(starts), 1, length, used)[:, 0]
    )
    for row, start in enumerate(starts):
        for t in range(length):
            first = 0 if window is None else max(0, start + t + 1 - window)
            assert torch.nonzero(mask[row, t])[:, 0].tolist() == list(range(first, start + t + 1))


def test_what_layers_share_is_computed_once() -> None:
    ctx, calls = ForwardContext(torch.arange(3)[None]), []

    def compute() -> Any:
        calls.append(1)
        return object()

    layer = ctx.with_cache({"k": torch.zeros(1)})
    assert ctx.memo("key", compute) is layer.memo("key", compute)
    assert len(calls) == 1


def test_each_layer_sees_its_own_cache() -> None:
    ctx = ForwardContext(torch.arange(3)[None])
    own = {"k": torch.zeros(1)}
    assert ctx.with_cache(own).cache is own
    assert ctx.cache is None
    assert ctx.with_cache(None) is ctx


def test_layers_with_different_windows_share_no_mask() -> None:
    ctx = ForwardContext(torch.arange(5)[None], None)
    for window in (2, None, 3, 2):
        mask = ctx.attention_mask(window)
        assert isinstance(mask, Tensor)
        assert mask[0, 0, 4].sum() == (window or 5)
