import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litmus.data.chat.batches import WindowSampler, fill, pack, scored_rows
from litmus.data.tokens.token_files import Windows
from litmus.errors import BadInput
from litmus.model import build
from litmus.nn import Batch


def windows_of(lengths, seed=0):
    """Windows of `lengths` random tokens, of which the last third is trained on."""
    random = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    scored = np.concatenate([np.arange(n) >= n - max(n // 3, 1) for n in lengths])
    return Windows(random.integers(1, 50, starts[-1]).astype(np.uint16), scored, starts, np.arange(len(lengths)))


SHRUNK = {"dim": 16, "depth": 2, "heads": 2, "context": 14, "dropout": 0.0}
LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=60)


@given(LENGTHS, st.integers(0, 3))
def test_every_window_is_in_one_row_and_no_row_overflows(lengths, seed):
    taken = np.array(lengths) - 1
    packing = pack(taken, 40, seed)
    assert sorted(packing.order.tolist()) == list(range(len(lengths)))
    rows = [int(taken[packing.row(row)].sum()) for row in range(len(packing))]
    assert all(0 < row <= 40 for row in rows)
    assert sum(rows[i] <= 20 for i in range(len(rows))) <= 1, "two rows that are half empty would be one"


def test_padding_is_below_five_percent_for_windows_as_long_as_those_of_chats():
    lengths = np.random.default_rng(0).lognormal(4.6, 0.5, 3000).astype(int).clip(4, 400).tolist()
    sampler = WindowSampler(windows_of(lengths), context=512, batch=4, seed=0)
    assert 0 <= sampler.padding <= 0.05


@given(LENGTHS)
def test_rows_hold_the_windows_with_their_targets_and_nothing_else(lengths):
    windows = windows_of(lengths)
    packing = pack(windows.lengths, 40)
    rows = fill(windows, [packing.row(row) for row in range(len(packing))], 40)
    for number in range(len(windows)):
        ids, scored = windows.window(number)
        place = rows.owners == number
        assert rows.inputs[place].tolist() == ids[:-1].tolist()
        assert rows.targets[place].tolist() == np.where(scored[1:], ids[1:].astype(int), -100).tolist()
        assert len(rows.document_ids[place].unique()) == 1
    padding = rows.owners == -1
    assert (rows.targets[padding] == -100).all()
    for row in range(len(packing)):
        documents = rows.document_ids[row]
        assert documents[~padding[row]].max() < documents[padding[row]].min() if padding[row].any() else True


def test_an_epoch_has_every_row_once_in_an_order_of_its_own():
    sampler = WindowSampler(windows_of([9] * 36), context=32, batch=3, seed=1)
    assert sampler.windows_per_epoch == 9
    orders = [[row for step in range(3) for row in sampler.batch(3 * epoch + step).windows] for epoch in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders) and orders[0] != orders[1] != orders[2]
    again = WindowSampler(windows_of([9] * 36), context=32, batch=3, seed=1)
    assert torch.equal(again.batch(5).inputs, sampler.batch(5).inputs)


def test_ranks_share_a_batch():
    whole = WindowSampler(windows_of([9] * 36), context=32, batch=4, seed=1)
    parts = [WindowSampler(windows_of([9] * 36), context=32, batch=4, seed=1, rank=r, world_size=2) for r in range(2)]
    assert whole.batch(3).windows == [row for part in parts for row in part.batch(3).windows]


def test_a_window_longer_than_the_context_is_refused():
    with pytest.raises(
        BadInput, match="has 39 tokens, and the context is 32; a longer context or --chat max_tokens=32"
    ):
        WindowSampler(windows_of([9, 40]), context=32, batch=1, seed=0)


def test_a_limit_of_tokens_takes_windows_from_the_whole_split():
    windows = windows_of([13] * 100)
    owners = torch.cat([rows.owners.flatten() for rows in scored_rows(windows, context=64, batch=2, limit_tokens=40)])
    assert owners.unique().tolist() == [-1, *np.linspace(0, 99, 10).round().astype(int).tolist()]
    everything = torch.cat([rows.owners.flatten() for rows in scored_rows(windows, context=64, batch=2)])
    assert everything.unique().tolist() == list(range(-1, 100))


@pytest.mark.parametrize("recipe", ["standard", "ssmax", "roleplay", "mla"])
def test_threads_packed_in_one_row_do_not_read_each_other(recipe, rough):
    """The loss of every target is that of its window alone, and no other window's tokens change it."""
    model = rough(build(recipe, size="tiny", vocab_size=23, overrides=SHRUNK)).eval()
    windows = windows_of([5, 4, 3, 6])
    rows = fill(windows, [np.array([0, 1, 2]), np.array([3])], 14)
    tokens = rows.inputs % model.recipe.vocab_size
    targets = torch.where(rows.targets == -100, -100, rows.targets % model.recipe.vocab_size)
    losses = model.token_losses(Batch(tokens, targets, rows.document_ids))
    for number in range(4):
        place = rows.owners == number
        alone = model.token_losses(tokens[place][None], targets[place][None])[0]
        torch.testing.assert_close(losses[place], alone)
    changed = torch.where(rows.owners == 1, (tokens + 1) % model.recipe.vocab_size, tokens)
    moved = model.token_losses(Batch(changed, targets, rows.document_ids)) - losses
    assert moved[rows.owners != 1].abs().max() == 0 < moved[rows.owners == 1].abs().max()
