import copy

import pytest
import torch

from litmus.model import build
from litmus.training import TrainSettings
from litmus.training.optimizers import Optimizers, clip_gradients, gradient_norm, hidden_matrices

SHRUNK = {"dim": 16, "depth": 3, "heads": 2, "context": 14}


@pytest.fixture
def model(recipe):
    return build(recipe, vocab_size=50, overrides={"head.tied": False, "positions": {"kind": "learned"}})


def give_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def optimizers_of(model, **options):
    named = dict(model.named_parameters())
    return Optimizers(named, hidden_matrices(model), TrainSettings(**options))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_parameters_of_more_than_one_dimension_decay(model, name):
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers_of(model, optimizer=name, weight_decay=0.5).step(0.1)
    for key, parameter in model.named_parameters():
        expected = before[key] * (1 - 0.1 * 0.5) if parameter.ndim > 1 else before[key]
        torch.testing.assert_close(parameter.detach(), expected)


def test_muon_takes_the_matrices_inside_layers_and_nothing_else(model):
    taken = hidden_matrices(model)
    assert taken == {name for name, p in model.named_parameters() if p.ndim == 2} - {
        "embedding.weight",
        "positions.weight",
        "head.weight",
    }


NEVER = {"embedding", "head", "router", "positions", "offsets", "conv", "join", "maps"}


def test_muon_takes_the_matrices_of_layers_and_experts_of_every_recipe_and_no_router(distinct_recipe):
    model = build(distinct_recipe, size="tiny", vocab_size=50, overrides={**SHRUNK, "vocab_size": 50})
    taken = hidden_matrices(model)
    named = dict(model.named_parameters())
    outside = {name for name in named if name not in taken}
    never = {name for name in named if NEVER & set(name.split("."))}
    assert not taken & never
    experts = {name for name in named if ".experts." in name}
    assert experts <= taken and all(named[name].ndim == 3 for name in experts)
    attention = {name for name in named if name.endswith((".qkv.weight", ".out.weight", ".down.weight"))}
    assert attention and attention <= taken
    assert {name for name in outside if named[name].ndim > 1} <= never


def test_a_stack_of_matrices_moves_as_muon_moves_each_alone():
    for shape in ((3, 8, 20), (2, 20, 8), (4, 6, 6)):
        stack = torch.nn.Parameter(torch.randn(shape))
        alone = [torch.nn.Parameter(matrix.clone()) for matrix in stack.detach()]
        settings = TrainSettings(optimizer="muon", weight_decay=0.3)
        together = Optimizers({"s": stack}, {"s"}, settings)
        single = {str(number): matrix for number, matrix in enumerate(alone)}
        apart = Optimizers(single, set(single), settings)
        for _ in range(3):
            stack.grad = torch.randn(shape)
            for matrix, gradient in zip(alone, stack.grad, strict=True):
                matrix.grad = gradient.clone()
            together.step(0.02)
            apart.step(0.02)
        torch.testing.assert_close(stack.detach(), torch.stack([m.detach() for m in alone]), rtol=2e-2, atol=1e-3)


def test_muon_moves_a_hidden_matrix_in_all_directions_alike(model):
    name = "layers.0.feedforward.down.weight"
    weight = dict(model.named_parameters())[name]
    before = weight.detach().clone()
    give_gradients(model)
    optimizers_of(model, optimizer="muon", weight_decay=0.0).step(0.1)
    sizes = torch.linalg.svdvals(weight.detach() - before)
    assert sizes.min() > 0.5 * sizes.max()


def test_muon_updates_have_the_size_of_usual_adamw_updates_whatever_the_shape():
    for shape in ((256, 256), (64, 512)):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape)
        Optimizers({"w": weight}, {"w"}, TrainSettings(optimizer="muon")).step(0.01)
        # AdamW's updates are about 0.2 to 0.4 of the learning rate in root mean square.
        assert weight.detach().square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("feedforward", ["swiglu", "moe"])
def test_restored_optimizers_go_on_bit_for_bit(recipe, name, feedforward):
    model = build(recipe, vocab_size=50, overrides={"feedforward": {"kind": feedforward}})
    other = copy.deepcopy(model)
    first = optimizers_of(model, optimizer=name)
    for seed in range(3):
        give_gradients(model, seed)
        first.step(0.01)
    other.load_state_dict(model.state_dict())
    second = optimizers_of(other, optimizer=name)
    second.restore({key: value.clone() for key, value in first.state().items()})
    for one, optimizers in ((model, first), (other, second)):
        give_gradients(one, 9)
        optimizers.step(0.01)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradients_longer_than_the_limit_are_scaled_to_it_and_shorter_ones_left(model):
    give_gradients(model)
    named = dict(model.named_parameters())
    before = {name: p.grad.clone() for name, p in named.items()}
    norm = float(gradient_norm(before))
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in before.values()]).norm()), rel=1e-5)
    clip_gradients(named, norm, norm + 1)
    clip_gradients(named, norm, None)
    assert all(torch.equal(p.grad, before[name]) for name, p in named.items())
    clip_gradients(named, norm, 0.5)
    assert float(gradient_norm({name: p.grad for name, p in named.items()})) == pytest.approx(0.5, rel=1e-4)
