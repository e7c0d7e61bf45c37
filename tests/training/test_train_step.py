import pytest
import torch

from litmus.data.sampler import SampledBatch
from litmus.model import build
from litmus.training import TrainSettings
from litmus.training.train_step import NotFinite, TrainStep, seed_for


def batch_of(rows, seed=0):
    tokens = torch.randint(50, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return SampledBatch(tokens[:, :-1], tokens[:, 1:], [100 * row for row in range(rows)])


def halves(batch):
    return [
        SampledBatch(batch.inputs[rows], batch.targets[rows], batch.windows[rows]) for rows in (slice(2), slice(2, 4))
    ]


@pytest.fixture
def stepper_of(recipe):
    def make(precision="fp32", overrides=None, **options):
        model = build(recipe, vocab_size=50, overrides={"dropout": 0.0, **(overrides or {})})
        return model, TrainStep(model, TrainSettings(**options), precision, 49)

    return make


def test_accumulated_passes_are_the_same_step_as_one_large_batch(stepper_of):
    whole, whole_stepper = stepper_of(clip=None)
    parts, parts_stepper = stepper_of(clip=None)
    batch = batch_of(4)
    one = whole_stepper.step([batch], 0.01)
    many = parts_stepper.step(halves(batch), 0.01)
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)


def test_the_gradient_norm_reported_is_that_before_clipping(stepper_of):
    _, free = stepper_of(clip=None)
    _, clipped = stepper_of(clip=1e-3)
    assert clipped.step([batch_of(4)], 0.01).gradient_norm == free.step([batch_of(4)], 0.01).gradient_norm > 1e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_repeated_steps_on_one_batch_lower_its_loss(stepper_of, precision):
    _, stepper = stepper_of(precision)
    losses = [stepper.step([batch_of(4)], 0.01).loss for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_stops_before_any_weight_changes(stepper_of, precision):
    model, stepper = stepper_of(precision)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    weight = model.layers[1].feedforward.down.weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    with pytest.raises(NotFinite) as raised:
        stepper.step([batch_of(4)], 0.01)
    assert "largest in layers.1.feedforward.down.weight (inf)" in str(raised.value)
    assert "windows at 0, 100, 200, 300" in str(raised.value)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_loss_that_is_not_a_number_is_caught_even_if_gradients_vanish(stepper_of):
    _, stepper = stepper_of()
    plain = stepper._loss

    def poisoned(*arguments, **options):
        loss = plain(*arguments, **options)
        loss.total = loss.total.detach() * torch.nan + loss.total * 0
        return loss

    stepper._loss = poisoned
    with pytest.raises(NotFinite, match="loss nan"):
        stepper.step([batch_of(4)], 0.01)


def test_parameters_without_a_gradient_are_left_alone(stepper_of):
    for precision in ("fp32", "bf16"):
        model, stepper = stepper_of(precision)
        model.norm.weight.requires_grad_(False)
        before = model.norm.weight.detach().clone()
        stepper.step([batch_of(4)], 0.1)
        assert torch.equal(model.norm.weight, before)


def test_label_smoothing_changes_the_training_loss(stepper_of):
    _, plain = stepper_of()
    _, smooth = stepper_of(label_smoothing=0.5)
    assert plain.step([batch_of(4)], 0.01).loss != smooth.step([batch_of(4)], 0.01).loss


def test_every_step_of_every_seed_has_randomness_of_its_own():
    seeds = {seed_for(seed, step, rank) for seed in range(10) for step in range(10) for rank in range(10)}
    assert len(seeds) == 1000
    assert seed_for(3, 7) == seed_for(3, 7)
