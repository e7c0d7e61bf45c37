"""Packed weights: codes, groups, what stays exact, and what a planted super weight needs."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from litmus.compression.ablation import block_losses
from litmus.compression.planting import plant_super_weight
from litmus.compression.quantization import (
    QuantizeSettings,
    parse_group,
    quantize,
    quantized_activations,
    quantized_weight,
)
from litmus.compression.superweights import find_super_weights, protected_weights
from litmus.errors import BadInput
from litmus.model.packed import dequantized, pack, unpack
from litmus.model.storage import load_weights, weights


@given(st.sampled_from((3, 4, 8)), st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_packing_is_undone_by_unpacking_and_takes_the_bits(bits, rows, blocks, seed):
    codes = torch.randint(2**bits, (rows, 8 * blocks), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert packed.numel() * 8 == codes.numel() * bits
    assert torch.equal(unpack(packed, bits).long(), codes)


@pytest.mark.parametrize("shape", [(6, 32), (3, 6, 32)])
@pytest.mark.parametrize("group", [8, 32, "channel", "tensor"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 3])
def test_every_weight_is_within_half_a_step(bits, symmetric, group, shape):
    weight = torch.randn(shape)
    packed = quantized_weight(weight, bits, QuantizeSettings(bits, group, symmetric))
    step = packed.scale.float().expand(*shape[:-1], -1) if group == "tensor" else packed.scale.float()
    step = step.repeat_interleave(32 // step.shape[-1], dim=-1)
    error = (packed.dequantized() - weight).abs()
    assert (error <= 0.51 * step + 0.004 * weight.abs().max()).all()  # scale and minimum are rounded to fp16
    assert error.max() > 0
    groups = {8: 4, 32: 1, "channel": 1, "tensor": 1}[group]
    assert packed.scale.shape == ((*shape[:-2], 1, 1) if group == "tensor" else (*shape[:-1], groups))
    stored = packed.tensors("w")
    assert torch.equal(dequantized(stored, "x")["w"], packed.dequantized())


@pytest.mark.parametrize(("width", "groups"), [(128, 2), (352, 11), (48, 3), (24, 1), (40, 1)])
def test_without_a_group_it_is_64_or_a_power_of_two_that_divides(width, groups):
    packed = quantized_weight(torch.randn(8, width), 4, QuantizeSettings(4))
    assert packed.scale.shape == (8, groups)
    assert packed.dequantized().shape == (8, width)


def test_weights_beyond_fp16_are_refused_and_not_made_infinite():
    for shift in (-1e6, 1e6):
        with pytest.raises(BadInput, match=r"a.b has weights .* too large to quantize"):
            quantized_weight(torch.randn(2, 64) + shift, 4, QuantizeSettings(4), name="a.b")


def test_kept_weights_are_exact_and_out_of_their_groups_range():
    weight = torch.randn(4, 32)
    weight[1, 5] = 100.0
    plain = quantized_weight(weight, 4, QuantizeSettings(4, 16)).dequantized()
    kept = quantized_weight(weight, 4, QuantizeSettings(4, 16), [(1, 5)]).dequantized()
    assert kept[1, 5] == 100.0
    others = torch.ones(4, 32, dtype=torch.bool)
    others[1, 5] = False
    assert (plain - weight)[others].abs().max() > 5 * (kept - weight)[others].abs().max()
    clipped = quantized_weight(weight, 4, QuantizeSettings(4, 16, clip=2.0)).dequantized()
    assert clipped[1, 5] < 70


def test_symmetric_codes_keep_zeros():
    weight = torch.randn(4, 32) * (torch.rand(4, 32) > 0.5)
    assert (quantized_weight(weight, 3, QuantizeSettings(3, 8, symmetric=True)).dequantized()[weight == 0] == 0).all()


@pytest.mark.parametrize("family", ["swiglu", "gelu", "moe", "shared"])
def test_a_model_is_quantized_whole_and_its_share_counted(family, trained, batch):
    model = trained(family)
    made = quantize(model, QuantizeSettings(8, 16))
    restored = copy.deepcopy(model)
    load_weights(restored, dequantized(made.tensors, "x"), "x")
    changed = sum(
        int(a.numel()) for a, b in zip(model.parameters(), restored.parameters(), strict=True) if (a != b).any()
    )
    assert made.share == changed / sum(p.numel() for p in model.parameters())
    assert set(made.kept) == {"norms, biases, routers and other vectors"}
    loss, after = (block_losses(one, batch).sum() / batch.tokens.numel() for one in (model, restored))
    assert abs(after - loss) < 0.01
    whole = sum(tensor.nbytes for tensor in weights(model).values())
    assert sum(tensor.nbytes for tensor in made.tensors.values()) < 0.35 * whole


def test_protecting_a_planted_super_weight_recovers_what_symmetric_int4_loses_and_no_other(trained, batch):
    planted, plant = plant_super_weight(trained("swiglu"), batch.tokens, row=7, column=11, quantile=0.5)
    kept = protected_weights(find_super_weights(planted, batch, controls=1))
    assert kept == {plant.parameter: [(7, 11)]}
    exact = weights(planted)["embedding.weight"]

    def loss(kept, symmetric):
        settings = QuantizeSettings(4, 32, symmetric=symmetric, embedding_bits=16)
        made = dequantized(quantize(planted, settings, kept).tensors, "x")
        made["embedding.weight"] = exact  # it holds the planted -M, which bf16 would round
        model = copy.deepcopy(planted)
        load_weights(model, made, "x")
        return float(block_losses(model, batch).sum() / batch.tokens.numel())

    before = float(block_losses(planted, batch).sum() / batch.tokens.numel())
    plain, protected = loss({}, True), loss(kept, True)
    assert plain - before > 0.3
    assert protected - before < 0.1 * (plain - before)
    # From min to max the zeros beside it are rounded to other numbers, which its activation of thousands multiplies.
    plain, protected = loss({}, False), loss(kept, False)
    assert protected - before > 0.9 * (plain - before) > 0.3


def test_rounded_activations_are_a_block_and_protection_helps_with_a_spike(trained, batch):
    planted, _ = plant_super_weight(trained("swiglu"), batch.tokens, row=7, column=11)
    before = block_losses(planted, batch).sum()
    with quantized_activations(planted, 4):
        plain = block_losses(planted, batch).sum()
    with quantized_activations(planted, 4, protect=True):
        protected = block_losses(planted, batch).sum()
    assert torch.equal(block_losses(planted, batch).sum(), before)
    assert abs(protected - before) < abs(plain - before)


def test_what_cannot_be_quantized_is_refused_by_name():
    cases = {
        "--bits = 5": lambda: QuantizeSettings(5),
        "--embedding-bits = 5": lambda: QuantizeSettings(embedding_bits=5),
        "--group = 'row'": lambda: parse_group("row"),
        "--group = 0": lambda: QuantizeSettings(group=0),
        "--clip = -1": lambda: QuantizeSettings(clip=-1.0),
        "--group = 48 does not divide the width 32 of a.b": lambda: quantized_weight(
            torch.ones(2, 32), 4, QuantizeSettings(4, 48), name="a.b"
        ),
        "a.b has a width of 12, which 8 does not divide": lambda: quantized_weight(
            torch.ones(2, 12), 4, QuantizeSettings(4, 4), name="a.b"
        ),
    }
    for sentence, make in cases.items():
        with pytest.raises(BadInput, match=sentence.replace("(", "\\(")):
            make()
    stored = quantized_weight(torch.randn(2, 16), 4, QuantizeSettings(4, 8)).tensors("w")
    for damaged in ({"w.scale": None}, {"w.bits": torch.tensor(5)}, {"w.scale": torch.ones(2, 3).half()}):
        parts = {name: tensor for name, tensor in {**stored, **damaged}.items() if tensor is not None}
        with pytest.raises(BadInput, match="a packed weight w whose parts do not fit together"):
            dequantized(parts, "file")
