"""Both ways against transformers itself: small random models made here, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from litmus.data.tokens.tokenizer import BytePairTokenizer, ByteTokenizer
from litmus.generation import generate
from litmus.interop import export_model, import_run
from litmus.model import Decoder
from litmus.training.run.loading import load_run

TOKENS = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(3))
SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
LATENT = {
    **SMALL,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**SMALL, "num_key_value_heads": 2, "rope_theta": 500.0}),
    "llama-options": (
        "LlamaForCausalLM",
        {**SMALL, "attention_bias": True, "mlp_bias": True, "head_dim": 12, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**SMALL, "num_key_value_heads": 2, "head_dim": 12, "rms_norm_eps": 1e-2}),
    "llama3-scaled": (
        "LlamaForCausalLM",
        {
            **SMALL,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "llama-yarn": (
        "LlamaForCausalLM",
        {**SMALL, "head_dim": 16, "rope_parameters": {**YARN, "beta_fast": 8.0, "beta_slow": 0.5}},
    ),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "deepseek-v2": ("DeepseekV2ForCausalLM", {**LATENT, "q_lora_rank": 12, "n_shared_experts": 2}),
    "deepseek-v2-groups": (
        "DeepseekV2ForCausalLM",
        {
            **LATENT,
            "q_lora_rank": None,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
        },
    ),
    "deepseek-v2-dense": ("DeepseekV2ForCausalLM", {**LATENT, "q_lora_rank": None, "first_k_dense_replace": 3}),
    "deepseek-v3": (
        "DeepseekV3ForCausalLM",
        {**LATENT, "q_lora_rank": 12, "n_group": 4, "topk_group": 2, "n_shared_experts": 2},
    ),
    "deepseek-v3-yarn": (
        "DeepseekV3ForCausalLM",
        {
            **LATENT,
            "qk_rope_head_dim": 8,
            "q_lora_rank": 12,
            "n_group": 2,
            "topk_group": 1,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
        },
    ),
    "deepseek-v3-no-query-latent": (
        "DeepseekV3ForCausalLM",
        {**LATENT, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.5},
    ),
}


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def test_transformers_computes_the_logits_of_an_exported_model(model: Decoder, tmp_path: Path) -> None:
    architecture = export_model(model, ByteTokenizer(), tmp_path / "out")
    theirs = loaded(tmp_path / "out")
    assert type(theirs).__name__ == architecture
    assert (theirs(TOKENS).logits - model(TOKENS)).abs().max() < 1e-4


@torch.no_grad()
def test_transformers_computes_the_logits_of_an_exported_module_ahead(
    small: Callable[[str], Decoder], tmp_path: Path
) -> None:
    model = small("deepseek")
    export_model(model, None, tmp_path / "out")
    theirs = loaded(tmp_path / "out")
    from safetensors.torch import load_file
    from transformers.modeling_layers import MtpLayer
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm

    module = MtpLayer(theirs.config, DeepseekV3DecoderLayer, DeepseekV3RMSNorm, 3).eval()
    tensors = {
        name.removeprefix("model.layers.3."): tensor
        for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()
        if name.startswith("model.layers.3.")
    }
    experts = [tensors.pop(f"mlp.experts.{e}.{name}_proj.weight") for e in range(16) for name in ("gate", "up")]
    tensors["mlp.experts.gate_up_proj"] = torch.stack([torch.cat(experts[2 * e : 2 * e + 2]) for e in range(16)])
    down = [tensors.pop(f"mlp.experts.{e}.down_proj.weight") for e in range(16)]
    tensors["mlp.experts.down_proj"] = torch.stack(down)
    named = {"enorm": "enorm", "hnorm": "hnorm", "eh_proj": "eh_proj", "shared_head.norm": "post_norm"}
    for name in list(tensors):
        owner = name.removesuffix(".weight")
        if owner not in ("embed_tokens", "shared_head.head"):
            place = f"{named[owner]}.weight" if owner in named else f"mtp_block.{name}"
            tensors[place] = tensors.pop(name)
        else:
            del tensors[name]
    module.load_state_dict(tensors)

    hidden = model.hidden(TOKENS)
    further = TOKENS.roll(-1, 1)
    positions = torch.arange(TOKENS.shape[1])[None]
    rotation = theirs.model.rotary_emb(hidden, positions)
    mask = torch.full((TOKENS.shape[1], TOKENS.shape[1]), -torch.inf).triu(1)[None, None]
    expected = module(theirs.model.embed_tokens(further), hidden, rotation, mask, positions, None)
    _, found = model.objective.predict_ahead(1, model, hidden, further, model.forward_context(TOKENS))
    assert (expected - found).abs().max() < 1e-4


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_an_imported_model_computes_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    architecture, options = THEIRS[name]
    kind = getattr(transformers, architecture)
    theirs = kind(kind.config_class(**options)).eval()
    for parameter in theirs.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    for buffer_name, buffer in theirs.named_buffers():
        if buffer_name.endswith("correction_bias"):
            buffer += 0.05 * torch.randn_like(buffer)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    import_run(tmp_path / "theirs", tmp_path / "runs" / "mine")
    run = load_run(tmp_path / "runs" / "mine")
    assert (run.model.eval()(TOKENS) - theirs(TOKENS).logits).abs().max() < 1e-4


@torch.no_grad()
def test_transformers_generates_what_litmus_generates(small: Callable[[str], Decoder], tmp_path: Path) -> None:
    for name in ("llama", "gpt2", "deepseek"):
        model = small(name)
        export_model(model, ByteTokenizer(), tmp_path / name)
        prompt = TOKENS[:1, :5]
        theirs = loaded(tmp_path / name).generate(
            prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert theirs[0, 5:].tolist() == generate(model, prompt.tolist(), max_new_tokens=12, temperature=0.0)[0]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BytePairTokenizer("bpe-260", ["Ġ t", "h e", "Ġt he"])])
def test_the_exported_tokenizer_begins_a_document_and_encodes_alike(
    tokenizer: Any, small: Callable[[str], Decoder], tmp_path: Path
) -> None:
    export_model(small("llama"), tokenizer, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the  naïve 世界\n\tthe end"
    assert theirs(text)["input_ids"] == [tokenizer.eos_id, *tokenizer.encode(text)]
    assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.eos_token_id == tokenizer.eos_id
