import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litmus.data.sampler import NOT_SCORED, document_ids, held_out_windows
from litmus.errors import BadInput


def tokens(count):
    return np.arange(count, dtype=np.uint16)


@given(st.integers(2, 200), st.integers(1, 30), st.integers(1, 5), st.none() | st.integers(1, 250))
def test_every_token_but_the_first_is_scored_once_after_the_token_before_it(length, context, batch, limit):
    if length <= context:
        return
    scored = []
    for inputs, targets in held_out_windows(tokens(length), context=context, batch=batch, limit_tokens=limit):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] == context
        assert 1 <= inputs.shape[0] <= batch
        real = targets != NOT_SCORED
        assert torch.equal(targets[real], inputs[real] + 1)
        assert real.any(dim=1).all()
        scored += targets[real].tolist()
    assert scored == list(range(1, min(length - 1, limit or length) + 1))


def test_a_held_out_split_shorter_than_a_window_is_refused_at_once():
    with pytest.raises(BadInput, match="it has 8 tokens, and a context of 8 needs 9"):
        held_out_windows(tokens(8), context=8, batch=1)


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(BadInput, match="limit_tokens is 0"):
        held_out_windows(tokens(20), context=8, batch=1, limit_tokens=0)


def test_an_end_token_begins_the_next_document():
    inputs = torch.tensor([[9, 1, 2, 9, 3], [1, 9, 9, 2, 2]])
    assert document_ids(inputs, first=9).tolist() == [[1, 1, 1, 2, 2], [0, 1, 2, 2, 2]]
