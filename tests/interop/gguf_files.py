"""Small GGUF files, written by the package gguf from a Hugging Face folder as llama.cpp's converter does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from safetensors.torch import load_file

from litmus.data.tokens.hf_tokenizer import read_hf_tokenizer
from litmus.interop import export_model
from litmus.interop.gguf.llama import LAYER_NAMES, NAMES
from litmus.model import Decoder, build
from tests.interop.published import TEMPLATE, byte_level, write_tokenizer

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
SIZES = {"dim": 32, "depth": 2, "heads": HEADS, "context": 64}
OPTIONS: dict[str, Any] = {"mixer": {"kv_heads": KV_HEADS}, "feedforward.hidden": 64, "positions.theta": 5000.0}
SETTINGS = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "unk_token": "<|end|>",
    "chat_template": TEMPLATE + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}


def small_llama(place: Path, rough: Callable[..., Decoder]) -> Path:
    """A small Llama with a tokenizer of 300 tokens, as a Hugging Face folder."""
    write_tokenizer(place / "tokenizer", byte_level(), SETTINGS)
    tokenizer = read_hf_tokenizer(place / "tokenizer" / "tokenizer.json")
    model = rough(build("standard", vocab_size=300, overrides={**SIZES, **OPTIONS}), torch.float32)
    export_model(model, tokenizer, place / "hf")
    return place / "hf"


def metadata_of(folder: Path) -> dict[str, Any]:
    """What llama.cpp's converter writes about such a folder."""
    file = json.loads((folder / "tokenizer.json").read_text())
    vocab, special = file["model"]["vocab"], {token["content"]: token["id"] for token in file["added_tokens"]}
    tokens = sorted(vocab, key=vocab.__getitem__)
    return {
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.block_count": 2,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": json.loads((folder / "config.json").read_text())["rms_norm_eps"],
        "llama.vocab_count": 300,  # not read
        "llama.rope.freq_base": 5000.0,
        "llama.rope.dimension_count": HEAD_DIM,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in file["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": special["<|im_start|>"],
        "tokenizer.ggml.eos_token_id": special["<|im_end|>"],
        "tokenizer.ggml.unknown_token_id": special["<|end|>"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": SETTINGS["chat_template"],
    }


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys in the order of llama.cpp, as its converter does it."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors_of(folder: Path, kind: str) -> dict[str, tuple[np.ndarray, GGMLQuantizationType]]:
    """The tensors by their GGUF names, matrices in the type `kind`."""
    ours = {f"{theirs}.weight": f"{name}.weight" for name, theirs in NAMES.items()}
    for layer in range(2):
        for name, theirs in LAYER_NAMES.items():
            ours[f"model.layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{name}.weight"
    found = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        value = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            value = permuted(value, HEADS if "q_proj" in name else KV_HEADS)
        coding = GGMLQuantizationType[kind if value.ndim == 2 else "F32"]
        found[ours[name]] = quantize(np.ascontiguousarray(value), coding), coding
    return found


def write(path: Path, metadata: dict[str, Any], tensors: dict[str, Any], architecture: str = "llama") -> Path:
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        kinds.get(type(value), writer.add_array)(key, value)
    for name, (value, coding) in tensors.items():
        writer.add_tensor(name, value, raw_dtype=coding)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
