"""The split-KV decode kernel equals its definition: on a GPU, or by Triton's interpreter where there is none."""

from __future__ import annotations

import os

import pytest
import torch

from litmus.nn.attention.split_kv import attend_split, is_installed

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or (is_installed() and os.environ.get("TRITON_INTERPRET") == "1")),
    reason="no GPU here; where Triton is installed, TRITON_INTERPRET=1 runs its kernels on a CPU",
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def definition(q: torch.Tensor, keys: torch.Tensor, values: int, visible: torch.Tensor, scale: float) -> torch.Tensor:
    scores = torch.einsum("bhd,bsd->bhs", q, keys) * scale
    hidden = torch.arange(keys.shape[1], device=keys.device) >= visible[:, None]
    weights = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhs,bsd->bhd", weights, keys[..., :values])


@pytest.mark.parametrize(
    ("batch", "heads", "rank", "rope", "keys"),
    [(1, 8, 512, 64, 700), (3, 16, 256, 32, 257), (2, 5, 40, 6, 31), (2, 128, 64, 0, 300), (9, 4, 288, 16, 1)],
)
def test_the_kernel_equals_its_definition(batch: int, heads: int, rank: int, rope: int, keys: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(batch, heads, rank + rope, device=DEVICE)
    latents = torch.randn(batch, keys + 3, rank + rope, device=DEVICE)[:, :keys]
    visible = torch.randint(1, keys + 1, (batch,), device=DEVICE)
    visible[-1] = keys
    scale = (rank + rope) ** -0.5
    found = attend_split(q, latents, rank, visible, scale)
    expected = definition(q.double(), latents.double(), rank, visible, scale)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)


def test_keys_that_a_row_may_not_read_change_nothing_even_when_they_are_not_numbers() -> None:
    q, latents = torch.randn(2, 4, 48, device=DEVICE), torch.randn(2, 300, 48, device=DEVICE)
    visible = torch.tensor([7, 250], device=DEVICE)
    before = attend_split(q, latents, 32, visible, 0.2)
    latents[0, 7:], latents[1, 250:] = torch.nan, torch.inf
    assert torch.equal(attend_split(q, latents, 32, visible, 0.2), before)
