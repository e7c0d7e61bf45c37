import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litmus.data.sampler import NOT_SCORED, Sampler, document_ids, held_out_windows
from litmus.errors import BadInput


def tokens(count):
    return np.arange(count, dtype=np.uint16)


def starts(sampler, steps):
    return [start for step in range(steps) for start in sampler.batch(step).windows]


def test_targets_are_the_inputs_moved_by_one():
    batch = Sampler(tokens(1000), context=16, batch=4, seed=0).batch(3)
    assert batch.inputs.shape == batch.targets.shape == (4, 16)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.targets, batch.inputs + 1)
    assert batch.inputs[:, 0].tolist() == batch.windows


@given(st.integers(5, 300), st.integers(1, 20), st.integers(1, 30), st.integers(1, 7), st.integers(0, 2**40))
def test_every_window_of_an_epoch_comes_exactly_once(length, context, stride, batch, seed):
    if length <= context:
        return
    sampler = Sampler(tokens(length), context=context, batch=batch, seed=seed, stride=stride)
    per_epoch = sampler.windows_per_epoch
    seen = starts(sampler, steps=-(-2 * per_epoch // batch))
    for epoch in (0, 1):
        windows = sorted(seen[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert windows == list(range(windows[0], windows[0] + per_epoch * stride, stride))
        assert 0 <= windows[0] < stride
        assert windows[-1] + context < length
    # No epoch leaves room at the end for two more windows.
    assert (per_epoch + 1) * stride + context >= length - stride


def test_a_batch_takes_the_end_of_one_epoch_and_the_start_of_the_next():
    sampler = Sampler(tokens(5 * 10 + 10), context=10, batch=3, seed=1)
    assert sampler.windows_per_epoch == 5
    seen = starts(sampler, steps=10)
    for epoch in range(6):
        assert len({start // 10 for start in seen[5 * epoch : 5 * epoch + 5]}) == 5


def test_a_batch_depends_on_nothing_but_seed_and_step():
    options = {"context": 8, "batch": 4, "seed": 7}
    forwards = Sampler(tokens(999), **options)
    backwards = Sampler(tokens(999), **options)
    expected = [forwards.batch(step) for step in range(100)]
    for step in reversed(range(100)):
        assert torch.equal(backwards.batch(step).inputs, expected[step].inputs)


def test_seeds_and_epochs_have_orders_and_offsets_of_their_own():
    first, other = (Sampler(tokens(4000), context=8, batch=1, seed=seed) for seed in (0, 1))
    epochs = [starts(first, 4 * first.windows_per_epoch)[i * first.windows_per_epoch :][:50] for i in range(4)]
    assert len({tuple(start // 8 for start in epoch) for epoch in epochs}) == 4
    assert len({epoch[0] % 8 for epoch in epochs}) > 1
    assert starts(other, 50) != epochs[0]


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_the_same_global_batch(world_size):
    options = {"context": 8, "batch": 6, "seed": 3}
    whole = Sampler(tokens(500), **options)
    ranks = [Sampler(tokens(500), rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    for step in (0, 9, 40):
        shares = [sampler.batch(step).inputs for sampler in ranks]
        assert all(len(share) == 6 // world_size for share in shares)
        assert torch.equal(torch.cat(shares), whole.batch(step).inputs)


def test_a_stream_of_exactly_one_window_is_enough():
    sampler = Sampler(tokens(9), context=8, batch=2, seed=0)
    assert starts(sampler, 3) == [0] * 6


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"context": 100}, "it has 100 tokens, and a context of 100 needs 101"),
        ({"context": 0}, "context is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": 5, "world_size": 2}, "multiple of the number of processes, 2"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_sampler_that_cannot_work_is_refused(options, complaint):
    with pytest.raises(BadInput, match=complaint):
        Sampler(tokens(100), **{"context": 10, "batch": 2, "seed": 0, **options})


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
    assert scored == sorted(set(scored))
    assert len(scored) == min(length - 1, limit or length) or len(scored) > (limit or length) - context
    if limit is None:
        assert scored == list(range(1, length))


def test_a_limited_score_is_over_windows_spread_evenly_over_the_stream():
    windows = held_out_windows(tokens(1001), context=10, batch=3, limit_tokens=45)
    starts = [int(row[0]) for inputs, _ in windows for row in inputs]
    assert starts == [100, 300, 500, 700, 900]
    *_, (_, targets) = held_out_windows(tokens(1001), context=10, batch=3, limit_tokens=45)
    assert int((targets[-1] != NOT_SCORED).sum()) == 5


def test_a_held_out_split_shorter_than_a_window_is_refused_at_once():
    with pytest.raises(BadInput, match="it has 8 tokens, and a context of 8 needs 9"):
        held_out_windows(tokens(8), context=8, batch=1)


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(BadInput, match="limit_tokens is 0"):
        held_out_windows(tokens(20), context=8, batch=1, limit_tokens=0)


def test_an_end_token_begins_the_next_document():
    inputs = torch.tensor([[9, 1, 2, 9, 3], [1, 9, 9, 2, 2]])
    assert document_ids(inputs, first=9).tolist() == [[1, 1, 1, 2, 2], [0, 1, 2, 2, 2]]
