"""Weights for decoding: copies in bf16, in 8 and in 4 bits, and what rounding them costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import litmus
from litmus.compression.quantization import QuantizeSettings, quantized_weight
from litmus.errors import BadInput
from litmus.generation import Engine, Request, Sampling
from litmus.generation.decode_weights import prepare
from litmus.generation.integer_linear import (
    INT4_KERNEL_MAX_TOKENS,
    INT8_KERNEL_MAX_TOKENS,
    Int4Linear,
    Int8Linear,
    int8_product,
)
from litmus.model import Decoder

SHAPE: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": 30}


def model(name: str = "standard") -> Decoder:
    return litmus.build(name, vocab_size=61, overrides=SHAPE).eval()


@given(st.integers(1, 40), st.integers(1, 24), st.integers(1, 3 * INT8_KERNEL_MAX_TOKENS), st.booleans())
@torch.no_grad()
def test_a_row_of_8_bit_weights_is_off_by_half_a_step_of_its_own_scale_at_most(
    inputs: int, outputs: int, tokens: int, bias: bool
) -> None:
    linear = nn.Linear(inputs, outputs, bias=bias)
    linear.weight *= torch.logspace(-3, 3, outputs)[:, None]
    rounded = Int8Linear(linear)
    x = torch.randn(tokens, 1, inputs)
    step = linear.weight.abs().amax(1) / 127
    off = (rounded(x) - linear(x)).abs()
    assert (off <= 0.5001 * step * x.abs().sum(-1, keepdim=True) + 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, INT8_KERNEL_MAX_TOKENS, INT8_KERNEL_MAX_TOKENS + 1])
def test_the_kernel_gives_what_the_reference_gives(tokens: int) -> None:
    linear = nn.Linear(64, 48, bias=True).bfloat16()
    x = torch.randn(1, tokens, 64).bfloat16()
    rounded = Int8Linear(linear)
    exact = (x.float() @ rounded.weight_int8.float().T) * rounded.scale.float() + linear.bias.float()
    torch.testing.assert_close(rounded(x).float(), exact, rtol=2e-2, atol=2e-2)


WIDTHS = """
import torch
from torch import nn
from litmus.generation.integer_linear import Int8Linear
torch.set_num_threads(1)
with torch.no_grad():
    for dtype in (torch.bfloat16, torch.float32):
        for inputs in range(8, 401):
            rounded = Int8Linear(nn.Linear(inputs, 1 + inputs % 7, bias=False).to(dtype))
            exact = rounded.weight_int8[:, :inputs].double() * rounded.scale.double()[:, None]
            for rows in (*range(1, 10), 16, 17, 32, 33):
                x = torch.randn(rows, inputs).to(dtype)
                wanted = x.double() @ exact.T
                off = (rounded(x) - wanted).abs().max() / wanted.abs().max()
                assert off < 1e-2, f"{dtype}, {rows} x {inputs}: off by {off:.2g}"
"""


def test_8_bit_weights_of_every_width_give_the_product_of_the_dequantized_matrix() -> None:
    # In a process of its own, since what it is to find is a crash.
    done = subprocess.run([sys.executable, "-c", WIDTHS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:] or f"ended by signal {-done.returncode}"


SLICES = """
import torch
from torch import nn
from litmus.generation.integer_linear import Int8Linear
with torch.no_grad():
    rounded = Int8Linear(nn.Linear(32, 5, bias=False).bfloat16())
    exact = rounded.weight_int8.double() * rounded.scale.double()[:, None]
    for rows in (1, 2, 4):
        for offset in range(32):
            x = torch.randn(rows * 32 + 64).bfloat16()[offset : offset + rows * 32].view(rows, 32)
            wanted = x.double() @ exact.T
            assert (rounded(x) - wanted).abs().max() < 1e-2 * wanted.abs().max()
"""


def test_8_bit_weights_take_inputs_from_any_place_in_memory() -> None:
    done = subprocess.run([sys.executable, "-c", SLICES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:] or f"ended by signal {-done.returncode}"


@given(st.integers(1, 200), st.integers(1, 40), st.booleans())
@torch.no_grad()
def test_4_bit_weights_are_off_by_half_a_step_of_their_group_at_most(inputs: int, outputs: int, bias: bool) -> None:
    linear = nn.Linear(inputs, outputs, bias=bias)
    linear.weight *= torch.logspace(-3, 3, outputs)[:, None]
    rounded = Int4Linear(linear)
    parts = (part.split(rounded.group, 1) for part in (rounded.widened(torch.float32), linear.weight))
    for group, exact in zip(*parts, strict=True):
        step = (exact.amax(1) - exact.amin(1)) / 15
        off = (group - exact).abs().amax(1)
        assert (off <= 0.6 * step + 0.005 * exact.abs().amax(1) + 1e-6).all()  # scales and minima are in bf16


INT4_WIDTHS = """
import torch
from torch import nn
from litmus.generation.integer_linear import Int4Linear
torch.set_num_threads(1)
with torch.no_grad():
    for inputs in (*range(1, 40), 63, 64, 65, 127, 128, 129, 300, 1088):
        for outputs in (1, 15, 16, 17, 63, 64, 80):
            rounded = Int4Linear(nn.Linear(inputs, outputs).bfloat16())
            exact = rounded.widened(torch.float64)
            for rows in (0, 1, 2, 3, 4, 5, 8, 31, 32, 33):
                for offset in (0, 1):
                    x = torch.randn(rows * inputs + offset).bfloat16()[offset:].view(rows, inputs)
                    wanted = x.double() @ exact.T + rounded.bias.double()
                    terms = x.double().abs() @ exact.abs().T + rounded.bias.double().abs()
                    off = (rounded(x) - wanted).abs() / terms
                    assert (off < 2e-2).all(), f"{rows} x {inputs} to {outputs}: off by {off.max():.2g} of the terms"
"""


def test_4_bit_weights_of_every_shape_give_the_product_of_the_dequantized_matrix() -> None:
    done = subprocess.run([sys.executable, "-c", INT4_WIDTHS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:] or f"ended by signal {-done.returncode}"


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, INT4_KERNEL_MAX_TOKENS, INT4_KERNEL_MAX_TOKENS + 1])
def test_4_bit_weights_give_a_compiler_what_they_give_without_one(tokens: int) -> None:
    rounded = Int4Linear(nn.Linear(70, 24).bfloat16())
    x = torch.randn(1, tokens, 70).bfloat16()
    compiled = torch.compile(rounded, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), rounded(x), rtol=2e-2, atol=2e-2)


@torch.no_grad()
@pytest.mark.parametrize("width", [128, 352])
def test_a_weight_of_4_bits_keeps_its_codes(width: int) -> None:
    linear = nn.Linear(width, 32, bias=False)
    stored = quantized_weight(linear.weight, 4, QuantizeSettings(4))
    linear.weight.copy_(stored.dequantized())
    for dtype in (torch.float32, torch.bfloat16):
        again = Int4Linear(linear.to(dtype))
        assert torch.equal(again.codes, stored.codes)
        step = float(stored.scale.max())
        assert_close(again.widened(torch.float32), stored.dequantized(), rtol=0, atol=0.05 * step)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bit_weights_take_inputs_of_any_number_of_dimensions(dtype: torch.dtype) -> None:
    rounded = Int8Linear(nn.Linear(40, 24).to(dtype))
    x = torch.randn(2, 3, 40).to(dtype)
    whole = rounded(x)
    assert rounded(x[0, 0]).shape == (24,) and rounded(x[:0]).shape == (0, 3, 24)
    assert_close(rounded(x[0, 0]), whole[0, 0], rtol=2e-2, atol=2e-2)


@torch.no_grad()
def test_the_kernel_as_one_operation_for_a_compiler_is_the_kernel() -> None:
    rounded = Int8Linear(nn.Linear(40, 24, bias=False).bfloat16())
    x = torch.randn(3, 40).bfloat16()
    torch.library.opcheck(int8_product, (x, rounded.weight_int8, rounded.scale))
    assert torch.equal(int8_product(x, rounded.weight_int8, rounded.scale), rounded(x))


def test_a_matrix_of_zeros_stays_one() -> None:
    linear = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(linear.weight)
    assert (Int8Linear(linear)(torch.randn(2, 4)) == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["standard", "gpt2", "mla", "moe-v3", "deepseek"])
@pytest.mark.parametrize(
    "options",
    [{"precision": "bf16"}, *({kind: True, "precision": p} for kind in ("int8", "int4") for p in (None, "fp32"))],
)
def test_a_rounded_copy_predicts_almost_the_same_and_leaves_the_model_alone(name: str, options: Any) -> None:
    exact = model(name)
    before = {key: tensor.clone() for key, tensor in exact.state_dict().items()}
    copied = prepare(exact, **options)
    tokens = torch.randint(61, (2, 12))
    logits = exact(tokens)
    assert (copied(tokens) - logits).std() < (0.3 if "int4" in options else 0.1) * logits.std()
    assert all(torch.equal(exact.state_dict()[key], tensor) for key, tensor in before.items())
    widest = torch.float32 if options.get("precision") == "fp32" else torch.bfloat16
    assert copied.new_cache(1, 4).layers[0].popitem()[1].dtype == widest


def test_nothing_is_copied_where_nothing_changes() -> None:
    exact = model().bfloat16().to("meta")
    assert prepare(exact) is exact
    assert prepare(exact, "bf16") is exact


def test_the_engine_decodes_with_rounded_weights(rough: Callable[..., Decoder]) -> None:
    exact = rough(model(), torch.float32)
    for options in ({"precision": "bf16"}, {"int8": True}, {"int4": True}):
        engine = Engine(exact, max_batch_size=2, **options)
        for prompt in ([1, 2, 3], [4]):
            engine.submit(Request(prompt, Sampling(temperature=0), 5))
        assert sum(event.token is not None for event in engine.run()) == 10
    assert exact.embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_integers_without_a_kernel_are_refused(kind: str) -> None:
    with pytest.raises(BadInput, match=f"{kind} decoding has a kernel for CPUs only, not for 'meta'; decode in bf16"):
        prepare(model().to("meta"), **{kind: True})


def test_8_and_4_bits_at_once_are_refused() -> None:
    with pytest.raises(BadInput, match="int8 and int4 exclude each other; choose one"):
        prepare(model(), int8=True, int4=True)


def test_4_bits_leave_8_for_the_head() -> None:
    copied = prepare(model(), int4=True)
    kinds = {name: type(module) for name, module in copied.named_modules()}
    assert Int8Linear in {kind for name, kind in kinds.items() if name.startswith("head")}
    assert Int4Linear in {kind for name, kind in kinds.items() if name.startswith("layers")}
    assert not {Int8Linear, nn.Linear} & {kind for name, kind in kinds.items() if name.startswith("layers")}


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"int8": True}, {"int4": True}])
def test_linear_layers_that_a_module_reads_as_matrices_stay_as_they_are(options: Any) -> None:
    class Reads(nn.Module):
        dense_weights = ("read",)

        def __init__(self) -> None:
            super().__init__()
            self.read, self.called = nn.Linear(32, 32), nn.Linear(32, 32)

    exact = model("mla")
    exact.layers[0].added = Reads()
    copied = prepare(exact, **options)
    mixer, added = copied.layers[0].mixer, copied.layers[0].added
    assert isinstance(mixer, nn.Module) and isinstance(added, nn.Module)
    assert type(mixer.kv_up) is nn.Linear and type(added.read) is nn.Linear
    kind = Int4Linear if "int4" in options else Int8Linear
    if "precision" not in options:
        assert isinstance(mixer.kv_down, kind) and isinstance(added.called, kind)
