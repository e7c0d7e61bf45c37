import pytest
import torch
from rich.console import Console

from litmus.data import DataSettings
from litmus.errors import BadInput
from litmus.model import build, training_flops_per_token
from litmus.runtime.precision import cast_parameters
from litmus.training import TrainSettings
from litmus.training.plan import make_plan

SETTINGS = TrainSettings(budget="300 steps", batch=4, accumulation=2, context=16, precision="fp32")


def shown(plan):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(plan.table())
    return console.export_text()


def test_a_plan_counts_what_the_training_would_have(recipe):
    plan = make_plan(recipe, DataSettings(tokenizer="bytes"), SETTINGS)
    model = build(recipe, vocab_size=257)
    assert plan.parameters == sum(p.numel() for p in model.parameters())
    assert plan.flops_per_token == training_flops_per_token(model.recipe, 16)
    assert plan.tokens_per_step == 4 * 2 * 16
    assert plan.steps == 300


def test_a_plan_needs_neither_the_corpus_nor_the_weights(recipe, monkeypatch):
    monkeypatch.setattr("litmus.data.prepare", None)
    large = {**recipe, "dim": 4096, "depth": 2, "heads": 32}
    plan = make_plan(large, DataSettings(corpus="not there", tokenizer="gpt2"), SETTINGS)
    assert plan.recipe.vocab_size == 50_257
    assert plan.parameters > 600e6


def test_super_small_is_planned_at_its_published_size():
    plan = make_plan("super-small", DataSettings(corpus="shakespeare", tokenizer="gpt2"), SETTINGS)
    width, layers, heads, hidden, vocabulary = 768, 6, 8, 2048, 50_257
    attention = 4 * (width * width + width) + heads  # SSMax learns one number per head
    block = attention + (2 * width * hidden + hidden + width) + 2 * 2 * width
    assert plan.parameters_non_embedding == layers * block + 2 * width
    assert plan.parameters >= plan.parameters_non_embedding + 2 * width * vocabulary
    assert f"{plan.parameters:,}" in shown(plan)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-autocast"])
def test_planned_activations_are_what_a_real_forward_pass_keeps(recipe, precision):
    plan = make_plan(recipe, DataSettings(tokenizer="bytes"), SETTINGS.model_copy(update={"precision": precision}))
    model = build(recipe, vocab_size=257)
    cast_parameters(model, precision)
    kept, own = {}, {p.data_ptr() for p in model.parameters()}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    tokens = torch.zeros(4, 16, dtype=torch.long)
    enabled = precision == "bf16-autocast"
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=enabled),
    ):
        loss = model.loss(tokens, tokens).total
    assert loss.requires_grad
    assert plan.memory_bytes["activations"] == pytest.approx(sum(size for size, _ in kept.values()), rel=0.05)


def test_memory_counts_masters_and_two_figures_of_adamw_for_each_weight(recipe):
    data = DataSettings(tokenizer="bytes")
    for precision, held in (("fp32", 4), ("bf16", 6)):
        plan = make_plan(recipe, data, SETTINGS.model_copy(update={"precision": precision}))
        assert plan.memory_bytes["weights"] == held * plan.parameters
        assert plan.memory_bytes["gradients"] == held * plan.parameters
        assert plan.memory_bytes["optimizer"] == 8 * plan.parameters
    muon = make_plan(recipe, data, SETTINGS.model_copy(update={"optimizer": "muon"}))
    assert 4 * muon.parameters < muon.memory_bytes["optimizer"] < 8 * muon.parameters


def test_the_table_shows_sizes_budget_memory_and_schedule(recipe):
    plan = make_plan(recipe, DataSettings(tokenizer="bytes"), SETTINGS)
    text = shown(plan)
    for part in (f"{plan.parameters:,}", "300 steps, 38,400 tokens", "exact fp32", "activations", "3.00e-03", "cosine"):
        assert part in text
    seconds = make_plan(recipe, DataSettings(tokenizer="bytes"), SETTINGS.model_copy(update={"budget": "1 min"}))
    assert seconds.steps is None
    assert "60 seconds" in shown(seconds)


def test_a_plan_refuses_what_a_training_would_refuse(recipe):
    with pytest.raises(BadInput, match="unknown tokenizer"):
        make_plan(recipe, DataSettings(tokenizer="gtp2"), SETTINGS)
    with pytest.raises(BadInput, match="does not divide"):
        make_plan({**recipe, "heads": 3}, DataSettings(tokenizer="bytes"), SETTINGS)
    with pytest.raises(BadInput, match="cannot train"):
        make_plan(recipe, DataSettings(tokenizer="bytes"), SETTINGS.model_copy(update={"device": "abacus"}))


def test_every_recipe_can_be_planned_in_fp32_and_mixed_precision(distinct_recipe):
    for precision in ("fp32", "bf16-autocast"):
        check_planned(distinct_recipe, precision)


@pytest.mark.parametrize("precision", ["medium", "bf16"])
@pytest.mark.parametrize("routed", ["mod", "moe", "moe-v3", "deepseek", "worker"])
def test_what_routes_tokens_can_be_planned_in_the_other_precisions(routed, precision):
    check_planned(routed, precision)


def check_planned(name, precision):
    recipe = {"base": name, "dim": 16, "heads": 2, "depth": 2}
    plan = make_plan(recipe, DataSettings(tokenizer="bytes"), TrainSettings(batch=3, context=16, precision=precision))
    assert plan.memory_bytes["activations"] > 3 * 16 * 16 * 2
    assert "activations" in shown(plan)


@pytest.mark.parametrize(
    "settings",
    [{"batch": 10**7}, {"batch": 2**31 - 1}, {"context": 2**31 - 1}],
    ids=str,
)
def test_a_training_that_no_memory_holds_is_refused_with_a_figure(quick, recipe, settings):
    settings = {"batch": 16, "context": 2**16, **settings}
    with pytest.raises(BadInput, match=r"would take about \d[\d.e+]* [TPE]B, and this machine has "):
        make_plan({**recipe, "dim": 512, "depth": 8}, DataSettings(tokenizer="bytes"), TrainSettings(**settings))
    with pytest.raises(BadInput, match=r"would take about \d[\d.e+]* [TPE]B, and this machine has "):
        quick(recipe={"dim": 512, "depth": 8}, **settings)


def test_planned_memory_is_linear_in_the_batch(recipe):
    one, two, many = (
        make_plan(recipe, DataSettings(tokenizer="bytes"), SETTINGS.model_copy(update={"batch": batch})).memory_bytes
        for batch in (1, 2, 50_000)
    )
    each = two["activations"] - one["activations"]
    assert many["activations"] == one["activations"] + 49_999 * each
