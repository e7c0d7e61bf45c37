"""Every precision computes the same loss within its rounding; fp32 master weights; the default by CPU."""

import pytest
import torch

from litmus.model import build
from litmus.runtime import precision
from litmus.runtime.precision import (
    DESCRIPTIONS,
    MasterWeights,
    autocast,
    best_precision,
    cast_parameters,
    matmul_precision,
)

CPU = torch.device("cpu")


@pytest.fixture
def model():
    recipe = {"base": "standard", "name": "toy", "dim": 16, "depth": 2, "heads": 2, "context": 32}
    return build(recipe, vocab_size=50, overrides={"dropout": 0.0})


@pytest.fixture
def tokens():
    return torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(0))


def loss_of(model, tokens, mode):
    with matmul_precision(mode), autocast(mode, CPU):
        return model.loss(tokens[:, :-1], tokens[:, 1:]).total


@pytest.mark.parametrize("mode", DESCRIPTIONS)
def test_every_precision_computes_the_same_loss_within_its_own_rounding(model, tokens, mode):
    exact = loss_of(model, tokens, "fp32").item()
    cast_parameters(model, mode)
    rounding = 0.02 if mode.startswith("bf16") else 1e-4
    assert loss_of(model, tokens, mode).item() == pytest.approx(exact, rel=rounding)


def test_masters_remember_updates_that_bf16_weights_cannot_hold(model):
    weights = MasterWeights(model, "bf16")
    name = "norm.weight"
    for _ in range(100):
        with torch.no_grad():
            weights.named[name] += 1e-4  # bf16 numbers around 1 are 0.0078 apart
        weights.copy_to_model()
    assert weights.named[name].dtype == torch.float32
    torch.testing.assert_close(weights.named[name].detach(), torch.full((16,), 1.01))
    held = dict(model.named_parameters())[name]
    assert held.dtype == torch.bfloat16
    assert (held > 1).all()


def test_gradients_of_several_backward_passes_add_up_in_fp32(model, tokens):
    weights = MasterWeights(model, "bf16")
    once = []
    for _ in range(3):
        loss_of(model, tokens, "bf16").backward()
        once.append({name: p.grad.float() for name, p in model.named_parameters()})
        weights.accumulate_gradients()
    for name, gradient in weights.gradients().items():
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, once[0][name] + once[1][name] + once[2][name])
    assert all(p.grad is None for p in model.parameters())


def test_a_model_in_fp32_is_its_own_master(model):
    weights = MasterWeights(model, "fp32")
    assert all(weights.named[name] is p for name, p in model.named_parameters())


def test_buffers_keep_their_precision_when_parameters_become_bf16(model):
    model.register_buffer("table", torch.ones(3))
    cast_parameters(model, "bf16")
    assert model.table.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_tied_head_stays_tied_in_bf16(model):
    cast_parameters(model, "bf16")
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize(("exact", "expected"), [(False, "highest"), (True, "medium")])
def test_fp32_takes_the_medium_kernels_only_where_they_round_nothing(monkeypatch, exact, expected):
    monkeypatch.setattr(precision, "medium_is_exact", lambda: exact)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_float32_matmul_precision()
    with matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
    with matmul_precision("fp32"):
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == before


def test_products_in_fp32_keep_what_bf16_would_round_away():
    with matmul_precision("fp32"):
        product = torch.full((256, 256), 1 + 2**-12) @ torch.ones(256, 256)
    assert (product == 256 + 2**-4).all()


@pytest.mark.parametrize(
    ("abilities", "expected"), [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({}, "fp32")]
)
def test_the_default_is_bf16_only_where_the_cpu_multiplies_it_natively(monkeypatch, abilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert best_precision(CPU) == expected
