"""Small models of every form that has an equivalent elsewhere, their weights and router biases away from the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.interop import export_model
from litmus.model import Decoder, build
from tests.interop.gguf_files import small_llama

SMALL: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": 64}
WITH_EQUIVALENT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("standard", SMALL),
    "llama-every-option": (
        "standard",
        {**SMALL, "mixer": {"kv_heads": 2, "head_dim": 12, "bias": True}, "feedforward.bias": True, "head.tied": False},
    ),
    "llama3-scaled": (
        "standard",
        {**SMALL, "positions.scaling": {"kind": "llama3", "factor": 4.0, "context": 16}},
    ),
    "mla-yarn": (
        "mla",
        {**SMALL, "positions.scaling": {"kind": "yarn", "factor": 4.0, "context": 16, "amplitude": 1.2}},
    ),
    "qwen3": ("standard", {**SMALL, "mixer": {"kv_heads": 2, "qk_norm": True}}),
    "gpt2": ("gpt2", SMALL),
    "gpt2-free-head": ("gpt2", {**SMALL, "head.tied": False, "feedforward.kind": "relu2", "feedforward.bias": True}),
    "mla": ("mla", SMALL),
    "mla-mtp": ("mla", {**SMALL, "objective": {"kind": "mtp", "depth": 2}}),
    "deepseek": ("deepseek", {**SMALL, "depth": 3}),
    "deepseek-free-head": ("deepseek", {**SMALL, "head.tied": False, "mixer.latent_query": False}),
}


@pytest.fixture(params=WITH_EQUIVALENT)
def model(request: pytest.FixtureRequest, small: Callable[[str], Decoder]) -> Decoder:
    return small(request.param)


@pytest.fixture
def small(rough: Callable[..., Decoder]) -> Callable[[str], Decoder]:
    def make(name: str) -> Decoder:
        recipe, overrides = WITH_EQUIVALENT[name]
        made = rough(build(recipe, vocab_size=300, overrides=overrides), torch.float32)
        for buffer_name, buffer in made.named_buffers():
            if buffer_name.endswith("router.bias"):
                buffer += 0.05 * torch.randn(buffer.shape)
        return made.eval()

    return make


@pytest.fixture
def exported(small: Callable[[str], Decoder], tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a small model, with a byte tokenizer."""

    def make(name: str) -> Path:
        export_model(small(name), ByteTokenizer(), tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory, rough: Callable[..., Decoder]) -> Path:
    """The Hugging Face folder of a small Llama with a tokenizer, from which tests write GGUF files."""
    return small_llama(tmp_path_factory.mktemp("llama"), rough)
