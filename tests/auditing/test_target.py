"""What is audited is the recipe as given, or one with the same layers and heads that is narrow enough."""

import pytest
import torch

from litmus.auditing.adapters.decoder import MAX_SHRUNK_WEIGHTS, MAX_VOCABULARY, DecoderTarget, layer_weights, shrunk
from litmus.auditing.target import perturbed
from litmus.model import build, recipes, resolve
from litmus.nn import Attention


def test_a_small_recipe_is_audited_as_given():
    recipe = resolve("standard", overrides={"vocab_size": 200, "dim": 64})
    assert shrunk(recipe) == (recipe, "")


@pytest.mark.parametrize("name", ["super-large", "gpt2", "minideepseek-small", "deepseek"])
def test_a_large_recipe_keeps_its_depth_heads_context_and_layer_groups(name):
    recipe = resolve(name)
    slim, note = shrunk(recipe)
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
    slim, _ = shrunk(resolve(name))
    assert (
        layer_weights(slim) <= 20 * MAX_SHRUNK_WEIGHTS
    )  # deep ones end a little above: their heads cannot get any narrower


def test_grouped_heads_keep_their_ratio():
    recipe = resolve("standard", size="base", overrides={"mixer.kv_heads": 3})
    slim, _ = shrunk(recipe)
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
