"""Planted super weights are found exactly, and nothing is found where none is."""

from __future__ import annotations

import copy

import pytest
import torch

from litmus.compression.ablation import Edit, block_losses, edited, edited_losses
from litmus.compression.planting import plant_super_weight
from litmus.compression.study import study
from litmus.compression.superweights import find_super_weights
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.diagnostics import down_projections
from litmus.errors import BadInput
from litmus.nn import Batch, reference_path

FAMILIES = ("swiglu", "gelu", "moe", "shared")


@pytest.mark.parametrize("family", FAMILIES)
def test_edited_losses_share_the_prefix_and_equal_changed_weights(family, trained, batch):
    model = copy.deepcopy(trained(family)).double()
    projections = down_projections(model)
    edits = [Edit.of(projection, 3, 5, factor) for projection in projections for factor in (0.0, 2.0)]
    edits.append(Edit(projections[-1], torch.tensor([0, 4, 0]), torch.tensor([1, 1, 2])))
    with reference_path():
        expected = edited_losses(model, batch, edits)
    torch.testing.assert_close(edited_losses(model, batch, edits), expected, rtol=1e-10, atol=1e-10)
    assert (expected != block_losses(model, batch)).any(1).all()


def test_weights_are_as_before_after_an_edit(trained, batch):
    model = trained("moe")
    before = copy.deepcopy(model.state_dict())
    with edited([Edit.of(down_projections(model)[1], 2, 2), Edit.of(down_projections(model)[1], 2, 2, 3.0)]):
        pass
    find_super_weights(model, batch, controls=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_super_weight_is_found_and_its_model_computes_the_same(family, trained, batch):
    model = trained(family)
    planted, plant = plant_super_weight(model, batch.tokens, row=7, column=11)
    tokens = batch.tokens.numel()
    before, after = block_losses(model, batch).sum() / tokens, block_losses(planted, batch).sum() / tokens
    assert abs(after - before) < 0.02
    search = find_super_weights(planted, batch, controls=2)
    found = {(one.projection.parameter, one.row, one.column) for one in search.super_weights}
    assert found == {(plant.parameter, 7, 11)}
    experts = {one.projection.expert for one in search.super_weights}
    assert experts == ({0, 1, 2} if family == "moe" else {None})
    assert search.candidates[0].increase.low > 0.1
    assert search.candidates[0].agreement == 1.0 or family == "moe"


def test_larger_weights_are_harmless_and_the_study_shows_it(trained, batch):
    planted, plant = plant_super_weight(trained("swiglu"), batch.tokens, row=7, column=11, quantile=0.9)
    assert (planted.layers[0].feedforward.down.weight.abs() > abs(plant.value)).sum() > 100
    search = find_super_weights(planted, batch, controls=2)
    shown = study(planted, batch, ByteTokenizer(), search)
    assert shown.counts["studied"][1].mean > 10 * abs(shown.counts["largest"][100].mean)
    assert shown.scales[1.0].mean == 0
    assert shown.scales[0.0].mean == pytest.approx(search.candidates[0].increase.mean, abs=1e-3)
    assert shown.activations[1][0] > 10 * shown.activations[0][0]  # without it the planted -M stays in the stream
    tokens = ByteTokenizer().decode(batch.tokens[0].tolist())
    assert "".join(shown.tokens) == tokens
    for state, by_token in enumerate(shown.by_token):
        assert [len(layer) for layer in by_token] == [batch.tokens.shape[1]] * len(planted.layers)
        assert all(max(layer) <= most for layer, most in zip(by_token, shown.activations[state], strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_none_is_found_in_models_without_one(family, trained, untrained, batch):
    for model in (trained(family), untrained(family)):
        assert find_super_weights(model, batch, controls=1).super_weights == []


def test_models_that_cannot_be_searched_are_refused(trained, batch):
    model = copy.deepcopy(trained("swiglu"))
    model.layers[0].feedforward.down.weight.data[0, 0] = torch.nan
    with pytest.raises(BadInput, match="not finite"):
        find_super_weights(model, batch)
    bare = copy.deepcopy(trained("swiglu"))
    for layer in bare.layers:
        layer.feedforward = torch.nn.Identity()
    with pytest.raises(BadInput, match="no feedforward down-projection"):
        find_super_weights(bare, Batch(batch.tokens, batch.targets))
    with pytest.raises(BadInput, match="32 x 96, so that it has no weight"):
        plant_super_weight(trained("swiglu"), batch.tokens, row=32, column=0)
