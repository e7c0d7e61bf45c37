"""Masks, smaller models, activations pruned while a model runs, and recovery."""

from __future__ import annotations

import copy

import pytest
import torch

from litmus.compression.ablation import block_losses
from litmus.compression.pruning import (
    PruneSettings,
    apply_masks,
    dynamic_pruning,
    input_norms,
    pruning_masks,
    recover,
)
from litmus.compression.quantization import linear_weights
from litmus.compression.structured import prune_structure
from litmus.errors import BadInput
from litmus.model import build
from litmus.training.evaluation import held_out_text
from litmus.training.run.loading import load_run


@pytest.mark.parametrize("family", ["swiglu", "moe", "shared"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "random"])
def test_masks_have_the_sparsity_asked_for(family, method, trained, batch):
    model = trained(family)
    for scope in ("layer", "global"):
        masks = pruning_masks(model, PruneSettings(0.5, method, scope), batch)
        assert masks.keys() == {name for name in linear_weights(model) if name.startswith("layers.")}
        kept = torch.cat([mask.flatten() for mask in masks.values()]).double().mean()
        assert kept == pytest.approx(0.5, abs=0.01)
        if scope == "layer":
            assert all(abs(mask.double().mean() - 0.5) < 0.02 for mask in masks.values())


def test_wanda_ranks_by_the_norm_of_inputs(trained, batch):
    """The definition, from the inputs that hooks see."""
    model, name = trained("swiglu"), "layers.1.mixer.out"
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.hidden(batch)
    handle.remove()
    norm = seen[0].flatten(0, 1).norm(dim=0)
    torch.testing.assert_close(input_norms(model, batch)[f"{name}.weight"][0], norm)
    score = model.get_parameter(f"{name}.weight").abs() * norm
    mask = pruning_masks(model, PruneSettings(0.25, "wanda"), batch)[f"{name}.weight"]
    for row in range(len(mask)):
        assert score[row][mask[row]].min() >= score[row][~mask[row]].max()


def test_two_of_four_stay_and_protected_weights_do(trained, batch):
    model = trained("moe")
    name = "layers.0.feedforward.experts.down"
    masks = pruning_masks(model, PruneSettings(0.5, "wanda", n_of_m=(2, 4)), batch, {name: [(1, 2, 3)]})
    assert masks[name][1, 2, 3]
    counts = {int(count) for mask in masks.values() for count in mask.unflatten(-1, (-1, 4)).sum(-1).unique()}
    assert counts <= {2, 3}
    pruned = copy.deepcopy(model)
    apply_masks(pruned, masks)
    assert ((pruned.get_parameter(name) != 0) == (masks[name] & (model.get_parameter(name) != 0))).all()


def test_wanda_costs_less_than_random(trained, batch):
    losses = {}
    for method in ("wanda", "random"):
        model = copy.deepcopy(trained("swiglu"))
        apply_masks(model, pruning_masks(model, PruneSettings(0.5, method), batch))
        losses[method] = float(block_losses(model, batch).sum())
    assert losses["wanda"] < losses["random"]


def test_a_head_that_adds_nothing_is_the_one_that_goes(trained, batch):
    for overrides in ({}, {"mixer": {"kv_heads": 2, "ssmax": {}, "bias": True, "gate": {}}}):
        model = build(
            "standard", vocab_size=128, overrides={"dim": 32, "depth": 2, "heads": 4, "context": 32, **overrides}
        )
        model.eval()
        with torch.no_grad():
            for layer, head in zip(model.layers, (1, 2), strict=True):
                group = slice(0, 16) if "mixer" in overrides else slice(8 * head, 8 * head + 8)
                layer.mixer.out.weight[:, group] = 0.0
        share = 0.5 if "mixer" in overrides else 0.25
        smaller = prune_structure(model, "heads", share, batch)
        assert smaller.parameter_counts()["total"] < model.parameter_counts()["total"]
        torch.testing.assert_close(smaller(batch.tokens), model(batch.tokens))


def test_an_expert_that_adds_nothing_is_the_one_that_goes(trained, batch):
    model = copy.deepcopy(trained("shared"))
    with torch.no_grad():
        for layer, expert in zip(model.layers, (0, 2), strict=True):
            layer.feedforward.experts.down[expert] = 0.0
            layer.feedforward.router.weight[expert] = 0.0
    smaller = prune_structure(model, "experts", 1 / 3, batch)
    assert smaller.layers[0].feedforward.experts.down.shape == (2, 32, 32)
    assert torch.equal(smaller.layers[0].feedforward.experts.down, model.layers[0].feedforward.experts.down[1:])
    assert torch.equal(smaller.layers[1].feedforward.router.weight, model.layers[1].feedforward.router.weight[:2])
    assert smaller.recipe.feedforward.experts == 2


def test_a_layer_that_changes_nothing_is_the_one_that_goes(batch):
    sizes = {"dim": 32, "depth": 4, "heads": 4, "context": 32}
    groups = [{"repeat": "half", "feedforward": {"kind": "gelu"}}, {"repeat": "rest"}]
    for overrides in ({}, {"layers": groups}):
        model = build("standard", vocab_size=128, overrides={**sizes, **overrides}).eval()
        with torch.no_grad():
            for name, parameter in model.layers[1].named_parameters():
                if "out" in name or "down" in name:
                    parameter.zero_()
        smaller = prune_structure(model, "layers", 0.25, batch)
        assert len(smaller.layers) == smaller.recipe.depth == 3
        torch.testing.assert_close(smaller(batch.tokens), model(batch.tokens))


@pytest.mark.parametrize("family", ["swiglu", "gelu", "moe"])
def test_dynamic_pruning_keeps_the_largest_activations_and_is_undone(family, trained, batch):
    model = trained(family)
    seen = []
    before = block_losses(model, batch)
    with dynamic_pruning(model, 0.75):
        if family != "moe":
            down = model.layers[0].feedforward.down
            handle = down.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        pruned = block_losses(model, batch)
    assert (pruned != before).any()
    assert torch.equal(block_losses(model, batch), before)
    if family != "moe":
        handle.remove()
        assert ((seen[0] != 0).double().mean(-1) - 0.25).abs().max() < 0.02


def test_recovery_lowers_the_loss_and_holds_the_zeros(run):
    source = load_run(run)
    text = held_out_text(source, None, lambda line: None)
    model = source.model.eval()
    masks = pruning_masks(model, PruneSettings(0.7, "magnitude"))
    apply_masks(model, masks)
    tokens = torch.tensor(text.train[:33].astype("int64"))
    before = model.loss(tokens[None, :-1], tokens[None, 1:]).total.item()
    settings = source.config.training.model_copy(update={"lr": 5e-3})
    recover(model, masks, text, settings, 32, 10)
    assert model.loss(tokens[None, :-1], tokens[None, 1:]).total.item() < before
    parameters = dict(model.named_parameters())
    assert all((parameters[name][~mask] == 0).all() for name, mask in masks.items())


def test_what_cannot_be_pruned_is_refused_by_name(trained, batch):
    model, mla = trained("swiglu"), build("mla", size="tiny", vocab_size=128)
    cases = {
        "--sparsity = 1 is not valid": lambda: PruneSettings(1.0),
        "--sparsity = -0.1": lambda: prune_structure(model, "layers", -0.1, batch),
        "a text, and none was given": lambda: pruning_masks(model, PruneSettings(0.5, "wanda")),
        "would remove 2 of 2 layers": lambda: prune_structure(model, "layers", 0.9, batch),
        "has no mixture of experts": lambda: prune_structure(model, "experts", 0.5, batch),
        "would remove 2 of 3 experts": lambda: prune_structure(trained("moe"), "experts", 0.7, batch),
        "no plain attention, but Mla": lambda: prune_structure(mla, "heads", 0.5, batch),
    }
    for sentence, call in cases.items():
        with pytest.raises(BadInput, match=sentence):
            call()
