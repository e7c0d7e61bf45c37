"""What cannot be written or read is refused in one sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from litmus.errors import BadInput
from litmus.interop import export_model, read_model
from litmus.interop.importing import import_run
from litmus.model import build

SMALL: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": 64}


@pytest.mark.parametrize(
    "recipe, overrides, named",
    [
        ("ssmax", {}, ["mixer.ssmax", "LlamaForCausalLM"]),
        ("nope", {}, ["positions is 'none'", "set positions to rope"]),
        ("learned", {}, ["positions is 'learned'"]),
        ("moe", {}, ["feedforward is 'moe'", "set feedforward to swiglu"]),
        ("standard", {"head.bias": True}, ["the head has a bias"]),
        ("standard", {"layers": [{"repeat": 1, "mixer": {"kv_heads": 2}}, {"repeat": "rest"}]}, ["layers differ"]),
        ("standard", {"mixer.qk_norm": True, "feedforward.bias": True}, ["feedforward.bias together with", "Qwen3"]),
        ("super-small", {}, ["mixer.ssmax", "positions is 'none'", "the head has a bias", "GPT2LMHeadModel"]),
        ("gpt2", {"mixer.kv_heads": 2}, ["mixer.kv_heads = 2", "set it to 4"]),
        ("minideepseek-small", SMALL, ["mixer.ssmax", "DeepseekV3ForCausalLM"]),
        ("mla", {"feedforward": {"kind": "moe", "shared": 1}}, ["router is 'softmax'", "set it to sigmoid"]),
        ("deepseek", {"feedforward.shared": 0}, ["feedforward.shared = 0"]),
    ],
)
def test_a_recipe_without_equivalent_is_refused_with_what_would_have_to_change(
    recipe: str, overrides: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    model = build(recipe, vocab_size=300, overrides={**SMALL, **overrides})
    with pytest.raises(BadInput) as refusal:
        export_model(model, None, tmp_path / "out")
    assert all(part in str(refusal.value) for part in [*named, "--remote-code"])
    assert not (tmp_path / "out").exists()


def test_faults_of_tensors_are_counted_and_the_first_five_named(exported: Callable[[str], Path]) -> None:
    folder = exported("llama")
    tensors = load_file(folder / "model.safetensors")
    missing = [name for name in tensors if "layers.1.mlp" in name]
    for name in missing:
        del tensors[name]
    tensors["model.norm.weight"] = torch.ones(31)
    tensors["model.rotary_emb.inv_freq"] = torch.ones(4)
    save_file({**tensors, "a": torch.ones(1), "b": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(BadInput) as refusal:
        read_model(folder, name="x")
    sentence = str(refusal.value)
    assert "3 tensors are missing, 2 extra and 1 misshapen" in sentence
    assert all(name in sentence for name in missing) and "a is extra" in sentence and "and 1 more" in sentence
    assert "inv_freq" not in sentence


def test_a_misshapen_tensor_is_told_with_both_shapes(exported: Callable[[str], Path]) -> None:
    folder = exported("gpt2")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.weight"] = tensors["transformer.h.0.mlp.c_fc.weight"].mT.contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"transformer.h.0.mlp.c_fc.weight is \(128, 32\), not \(32, 128\)"):
        read_model(folder, name="x")


def test_a_copy_that_differs_is_refused(exported: Callable[[str], Path]) -> None:
    folder = exported("deepseek")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.3.embed_tokens.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"model.layers.3.embed_tokens.weight differs from model.embed_tokens.weight"):
        read_model(folder, name="x")


def test_pickled_weights_are_refused_and_never_opened(exported: Callable[[str], Path]) -> None:
    folder = exported("llama")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"safetensors only.*pytorch_model.bin"):
        read_model(folder, name="x")


def test_a_cut_weights_file_is_refused(exported: Callable[[str], Path]) -> None:
    file = exported("llama") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        read_model(file.parent, name="x")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"architectures": ["MambaForCausalLM"]}, "'MambaForCausalLM' is not supported.*LlamaForCausalLM"),
        ({"architectures": None}, "architecture None is not supported"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu' has no equivalent in Litmus; valid: 'silu'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "RoPE of type 'dynamic'.*'llama3' and 'yarn' are valid"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "RoPE of type 'longrope'"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "original_max_position_embeddings is missing, which RoPE of type 'yarn' needs",
        ),
        (
            {"rope_scaling": {"type": "llama3", "original_max_position_embeddings": 8}},
            "low_freq_factor is missing, which RoPE of type 'llama3' needs",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized by 'fp8'"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide'"),
    ],
)
def test_a_config_that_litmus_does_not_know_is_refused_by_name(
    change: dict[str, Any], sentence: str, exported: Callable[[str], Path]
) -> None:
    path = exported("llama") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadInput, match=sentence):
        read_model(path.parent, name="x")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        read_model(tmp_path / "absent", name="x")
    with pytest.raises(BadInput, match=r"no config.json"):
        read_model(tmp_path, name="x")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        read_model(tmp_path, name="x")


def test_nothing_that_stands_there_is_overwritten(exported: Callable[[str], Path], tmp_path: Path) -> None:
    folder = exported("llama")
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "today.txt").write_text("kept")
    with pytest.raises(BadInput, match="no exported model that Litmus wrote"):
        export_model(build("standard", overrides=SMALL), None, tmp_path / "diary")
    with pytest.raises(BadInput, match="is there already"):
        import_run(folder, tmp_path / "diary")
    assert (tmp_path / "diary" / "today.txt").read_text() == "kept"


@pytest.mark.parametrize("remote_code", [False, True])
def test_layers_that_share_weights_are_refused(remote_code: bool, tmp_path: Path) -> None:
    shape = {"dim": 16, "depth": 2, "heads": 2, "context": 32, "layers": [{"repeat": 2, "shared": True}]}
    model = build("standard", vocab_size=257, overrides=shape)
    with pytest.raises(BadInput, match=r"layers share weights \(set shared to false\)"):
        export_model(model, None, tmp_path / "out", remote_code=remote_code)
