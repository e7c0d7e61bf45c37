"""What is audited is the recipe as given, or one with the same layers and heads that is narrow enough."""

from pathlib import Path

import pytest
import torch

from litmus.auditing import audit
from litmus.auditing.adapters import decoder
from litmus.auditing.adapters.decoder import MAX_SHRUNK_WEIGHTS, MAX_VOCABULARY, DecoderTarget, layer_weights, shrunk
from litmus.auditing.target import perturbed
from litmus.model import build, recipes, resolve
from litmus.nn import Attention

SPECIMENS = Path(__file__).parents[2] / "specimens"
SMALL = {"dim": 32, "heads": 2, "context": 64}


def test_a_small_recipe_is_audited_as_given():
    recipe = resolve("standard", overrides={"vocab_size": 200, "dim": 64})
    assert shrunk(recipe, MAX_SHRUNK_WEIGHTS[1]) == (recipe, "")


@pytest.mark.parametrize("name", ["super-large", "gpt2", "minideepseek-small", "deepseek"])
def test_a_large_recipe_keeps_its_depth_heads_context_and_layer_groups(name):
    recipe = resolve(name)
    slim, note = shrunk(recipe, MAX_SHRUNK_WEIGHTS[1])
    assert (slim.depth, slim.heads, slim.context, slim.layers) == (
        recipe.depth,
        recipe.heads,
        recipe.context,
        recipe.layers,
    )
    assert slim.dim < recipe.dim and slim.vocab_size == MAX_VOCABULARY and slim.dropout == 0
    assert f"width {recipe.dim:,} -> {slim.dim:,}" in note and f"vocabulary {recipe.vocab_size:,}" in note


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_narrowed_to_what_can_be_audited_in_a_minute(name):
    slim, _ = shrunk(resolve(name), MAX_SHRUNK_WEIGHTS[1])
    assert (
        layer_weights(slim) <= 20 * MAX_SHRUNK_WEIGHTS[1]
    )  # deep ones end a little above: their heads cannot get any narrower


def test_a_quick_audit_is_of_a_narrower_model():
    recipe = resolve("standard")
    quick, full = (DecoderTarget(recipe, quick=quick).recipe for quick in (True, False))
    assert layer_weights(quick) <= MAX_SHRUNK_WEIGHTS[0] < layer_weights(full) <= MAX_SHRUNK_WEIGHTS[1]


def test_grouped_heads_keep_their_ratio():
    recipe = resolve("standard", size="base", overrides={"mixer.kv_heads": 3})
    slim, _ = shrunk(recipe, MAX_SHRUNK_WEIGHTS[1])
    assert (slim.heads, slim.mixer.kv_heads) == (12, 3)


def test_perturbing_changes_every_parameter_by_the_same_random_amount_each_time():
    one, two = (perturbed(build("ssmax", dim=32, heads=2, depth=1, vocab_size=61)) for _ in range(2))
    plain = build("ssmax", dim=32, heads=2, depth=1, vocab_size=61)
    for a, b, c in zip(one.parameters(), two.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.isclose(a, c, rtol=0, atol=1e-9).any()


def test_a_model_is_tried_beyond_its_context_only_where_it_can_go_there():
    sizes = {"dim": 32, "heads": 2, "depth": 1, "vocab_size": 61, "context": 40}
    assert DecoderTarget(resolve("standard", overrides=sizes), quick=True).longest == 80
    assert DecoderTarget(resolve("learned", overrides=sizes), quick=True).longest == 40


class HalfPrecision(Attention):
    def forward(self, x, ctx):
        return super().forward(x, ctx).bfloat16().to(x.dtype)


def test_casts_inside_the_model_are_lifted(mixer):
    sizes = {"dim": 32, "heads": 2, "depth": 1, "vocab_size": 61}
    assert DecoderTarget(resolve("ssmax", overrides=sizes), quick=True).rounding == 1e-9
    coarse = resolve("standard", overrides={**sizes, "mixer": mixer(HalfPrecision)})
    target = DecoderTarget(coarse, quick=True)
    assert target.rounding == 1e-9 and target.lifts_casts
    tokens = target.tokens(1, 9)
    rounded = target.model(tokens)
    with target.exact():
        exact = target.model(tokens)
    assert (exact - rounded).abs().max() > 1e-4


def test_a_large_live_model_is_audited_with_its_first_layers_and_once_whole(monkeypatch, rough):
    monkeypatch.setattr(decoder, "MAX_LIVE_WEIGHTS", 0)
    monkeypatch.setattr(decoder, "MAX_VOCABULARY", 40)
    model = rough(build("roleplay", vocab_size=61, overrides={**SMALL, "depth": 6}))
    cut, note = decoder.first_layers(model)
    assert note == "audited with layers 0, 3 of 6 and vocabulary 61 -> 40, and once whole"
    for layer, number in enumerate((0, 3)):
        own, source = cut.layers[layer].state_dict(), model.layers[number].state_dict()
        assert all(torch.equal(own[name], source[name]) for name in source)
    assert torch.equal(cut.embedding.weight, model.embedding.weight[:40])
    leaky = build(SPECIMENS / "leak_in_deep_layers.py", vocab_size=61, overrides={**SMALL, "depth": 6})
    report = audit(leaky, quick=True, only=["causality"])
    assert "with all layers and tokens" in report.failed[0].detail


def test_a_model_with_as_few_layers_or_as_many_kinds_stays_whole(monkeypatch):
    monkeypatch.setattr(decoder, "MAX_LIVE_WEIGHTS", 0)
    for depth in (1, 2):
        model = build("standard", vocab_size=61, overrides={**SMALL, "depth": depth})
        assert decoder.first_layers(model) == (model, "")
