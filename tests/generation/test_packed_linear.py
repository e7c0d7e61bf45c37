"""Packed linear layers compute what the plain ones do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import litmus
from litmus.generation.decode_weights import PackedLinear, can_pack, packed_product, prepare

pytestmark = pytest.mark.skipif(not can_pack(torch.empty(0)), reason="this build of PyTorch has no packed kernels")
DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(torch.empty(0, dtype=dtype))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 37)])
def test_packed_equals_plain(dtype: torch.dtype, bias: bool, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(40, 24, bias=bias).to(dtype)
    x = torch.randn(*shape, 40).to(dtype)
    exact = nn.functional.linear(
        x.double(), linear.weight.double(), None if linear.bias is None else linear.bias.double()
    )
    with torch.inference_mode():
        packed = PackedLinear(linear)
        assert packed(x).dtype == dtype
        torch.testing.assert_close(packed(x).double(), exact, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-2)
        assert torch.equal(packed_product(x, packed.packed, packed.bias, 24), packed(x))


def test_a_prepared_model_predicts_the_same_and_leaves_the_model_as_it_was() -> None:
    model = litmus.build("mla", size="mini", depth=1, vocab_size=64).eval()
    tokens = torch.randint(64, (2, 20))
    with torch.inference_mode():
        before = model(tokens)
        ready = prepare(model)
        assert any(isinstance(module, PackedLinear) for module in ready.modules())
        torch.testing.assert_close(ready(tokens), before, atol=1e-4, rtol=1e-4)
        assert torch.equal(model(tokens), before)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_can_be_packed_are_those_that_this_cpu_packs(dtype: torch.dtype) -> None:
    try:
        PackedLinear(nn.Linear(16, 16).to(dtype))
        packs = True
    except RuntimeError:  # "bf16 path needs the cpu support ..."
        packs = False
    assert can_pack(torch.empty(0, dtype=dtype)) == packs


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_equals_plain_at_every_width(dtype: torch.dtype) -> None:
    with torch.inference_mode():
        for inputs in [*range(1, 50), 100, 344]:
            linear = nn.Linear(inputs, 1 + inputs % 19, bias=False).to(dtype)
            for rows in (1, 2, 5, 17):
                x = torch.randn(rows, inputs).to(dtype)
                exact = x.double() @ linear.weight.double().T
                torch.testing.assert_close(PackedLinear(linear)(x).double(), exact, atol=2e-2, rtol=1e-2)
