"""What Litmus writes for others it reads back bit for bit, under the published names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.errors import BadInput
from litmus.interop import export_model, export_run, read_model
from litmus.interop.importing import import_run
from litmus.model import Decoder
from litmus.model.storage import load_weights, weights
from litmus.training.run.loading import load_run


def test_weights_and_logits_come_back_bit_for_bit(model: Decoder, tmp_path: Path) -> None:
    export_model(model, None, tmp_path / "out")
    recipe, tensors = read_model(tmp_path / "out", name="back")
    own = weights(model)
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[name], own[name]) for name in own)
    back = Decoder(recipe).eval()
    load_weights(back, tensors, "here")
    tokens = torch.arange(20)[None]
    assert torch.equal(back(tokens), model(tokens))


def test_an_imported_run_is_the_exported_model(exported: Callable[[str], Path], tmp_path: Path) -> None:
    folder = exported("deepseek")
    import_run(folder, tmp_path / "runs" / "back")
    run = load_run(tmp_path / "runs" / "back")
    assert (run.step, run.tokenizer.pieces) == (0, ByteTokenizer().pieces)
    export_model(run.model, run.tokenizer, tmp_path / "again")
    first, second = load_file(folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (folder / "config.json").read_text() == (tmp_path / "again" / "config.json").read_text()


def test_deepseek_tensors_have_their_published_names_and_shapes(exported: Callable[[str], Path]) -> None:
    tensors = load_file(exported("deepseek") / "model.safetensors")
    config = json.loads((exported("deepseek") / "config.json").read_text())
    dim, heads, rope = 32, 4, config["qk_rope_head_dim"]
    expected = {
        "model.embed_tokens.weight": (300, dim),
        "lm_head.weight": (300, dim),
        "model.layers.0.mlp.gate_proj.weight": (config["intermediate_size"], dim),
        "model.layers.1.mlp.gate.weight": (16, dim),
        "model.layers.1.mlp.gate.e_score_correction_bias": (16,),
        "model.layers.1.mlp.experts.15.down_proj.weight": (dim, config["moe_intermediate_size"]),
        "model.layers.1.mlp.shared_experts.up_proj.weight": (config["moe_intermediate_size"], dim),
        "model.layers.2.self_attn.q_a_proj.weight": (config["q_lora_rank"], dim),
        "model.layers.2.self_attn.q_a_layernorm.weight": (config["q_lora_rank"],),
        "model.layers.2.self_attn.q_b_proj.weight": (
            heads * (config["qk_nope_head_dim"] + rope),
            config["q_lora_rank"],
        ),
        "model.layers.2.self_attn.kv_a_proj_with_mqa.weight": (config["kv_lora_rank"] + rope, dim),
        "model.layers.2.self_attn.kv_b_proj.weight": (
            heads * (config["qk_nope_head_dim"] + config["v_head_dim"]),
            config["kv_lora_rank"],
        ),
        "model.layers.3.enorm.weight": (dim,),
        "model.layers.3.hnorm.weight": (dim,),
        "model.layers.3.eh_proj.weight": (dim, 2 * dim),
        "model.layers.3.embed_tokens.weight": (300, dim),
        "model.layers.3.shared_head.norm.weight": (dim,),
        "model.layers.3.shared_head.head.weight": (300, dim),
        "model.layers.3.mlp.experts.0.gate_proj.weight": (config["moe_intermediate_size"], dim),
    }
    assert {name: tuple(tensors[name].shape) for name in expected} == expected
    assert config["num_nextn_predict_layers"] == 1 and config["first_k_dense_replace"] == 1


def test_rotated_rows_are_published_in_pairs(small: Callable[[str], Decoder], exported: Callable[[str], Path]) -> None:
    mixer = small("mla").layers[0].mixer
    published = load_file(exported("mla") / "model.safetensors")["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"]
    own, rank, half = mixer.kv_down.weight, mixer.rank, mixer.rope // 2
    assert torch.equal(published[:rank], own[:rank])
    for pair in range(half):
        assert torch.equal(published[rank + 2 * pair], own[rank + pair])
        assert torch.equal(published[rank + 2 * pair + 1], own[rank + half + pair])


def test_a_module_ahead_is_published_with_the_embedding_first(
    small: Callable[[str], Decoder], exported: Callable[[str], Path]
) -> None:
    own = small("deepseek").objective.mtp_layers[0].join.weight
    published = load_file(exported("deepseek") / "model.safetensors")["model.layers.3.eh_proj.weight"]
    assert torch.equal(published, torch.cat((own[:, 32:], own[:, :32]), dim=1))


def test_modules_ahead_can_be_left_out_of_an_export(exported: Callable[[str], Path], tmp_path: Path) -> None:
    import_run(exported("deepseek"), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "bare", drop_mtp=True)
    whole, bare = load_file(tmp_path / "deepseek/model.safetensors"), load_file(tmp_path / "bare/model.safetensors")
    ahead = {name for name in whole if name.startswith("model.layers.3.")}
    assert ahead and bare.keys() == whole.keys() - ahead
    assert all(torch.equal(bare[name], whole[name]) for name in bare)
    assert json.loads((tmp_path / "bare/config.json").read_text())["num_nextn_predict_layers"] == 0


def test_a_tied_llama_has_no_second_copy_of_its_embedding(exported: Callable[[str], Path]) -> None:
    assert "lm_head.weight" not in load_file(exported("llama") / "model.safetensors")


def test_names_of_gpt2_without_their_prefix_and_with_mask_buffers_are_read(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    folder = exported("gpt2")
    tensors = load_file(folder / "model.safetensors")
    _, expected = read_model(folder, name="a")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file({**bare, "h.0.attn.bias": torch.ones(1, 1, 64, 64)}, folder / "model.safetensors")
    _, found = read_model(folder, name="b")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["llama", "deepseek"])
def test_a_sharded_folder_reads_as_the_whole_one(name: str, exported: Callable[[str], Path]) -> None:
    from safetensors.torch import save_file

    folder = exported(name)
    _, expected = read_model(folder, name="a")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    place = {tensor: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, tensor in enumerate(tensors)}
    for file in set(place.values()):
        save_file({key: tensors[key] for key in tensors if place[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    _, found = read_model(folder, name="b")
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_an_export_replaces_an_export_and_nothing_else(model: Decoder, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for _ in range(2):
        export_model(model, ByteTokenizer(), folder)
    (folder / "README.md").write_text("mine")
    with pytest.raises(BadInput, match=r"holds README\.md, which Litmus did not write"):
        export_model(model, ByteTokenizer(), folder)
    assert (folder / "README.md").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="is no exported model that Litmus wrote"):
        export_model(model, ByteTokenizer(), other)
    assert (other / "config.json").read_text() == "{}"
