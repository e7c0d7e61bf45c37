"""Which tokens the statistics of auxiliary losses count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litmus.model import build
from litmus.nn import AuxLosses, Batch

SCORED = st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=3)


@given(scored=SCORED, starts=SCORED, real=SCORED, first=st.integers(0, 5))
def test_real_tokens_are_counted_up_to_the_last_scored_target_of_their_document(
    scored: list[list[bool]], starts: list[list[bool]], real: list[list[bool]], first: int
) -> None:
    rows = min(map(len, (scored, starts, real)))
    is_scored, padding_mask = torch.tensor(scored[:rows]), torch.tensor(real[:rows])
    targets = torch.where(is_scored, 7, -100)
    documents = first - torch.tensor(starts[:rows]).long().cumsum(1)  # any ids will do
    for batch in (
        Batch(targets, targets),
        Batch(targets, targets, documents),
        Batch(targets, targets, documents, padding_mask),
    ):
        counted = AuxLosses.before(batch).counted
        for row in range(rows):
            for t in range(9):
                later = range(t, 9)
                own = [s for s in later if batch.document_ids is None or documents[row, s] == documents[row, t]]
                expected = any(is_scored[row, s] for s in own)
                if batch.padding_mask is not None:
                    expected &= bool(padding_mask[row, t])
                assert counted[row, t] == expected


@pytest.mark.parametrize("router", ["softmax", "softmax_v2", "sigmoid"])
def test_a_document_without_scored_targets_has_no_part_in_the_loss(router: str) -> None:
    moe = {"kind": "moe", "experts": 4, "top_k": 2, "router": {"kind": router}}
    model = build("standard", vocab_size=31, overrides={"feedforward": moe}).double().train()
    tokens, other = torch.randint(31, (2, 3, 20)).unbind(0)
    documents = (torch.arange(20) >= 8).long().expand(3, -1)
    targets = tokens.roll(-1, 1).masked_fill(documents == 0, -100)
    changed = torch.where(documents == 0, other, tokens)
    losses = [model.loss(Batch(each, targets, documents)) for each in (tokens, changed)]
    assert "balance" in losses[0].parts
    torch.testing.assert_close(losses[0].total, losses[1].total, rtol=0, atol=1e-12)
