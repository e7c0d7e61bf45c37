"""The audit of models of transformers: small random ones made here, nothing downloaded."""

from __future__ import annotations

import json

import pytest
import torch

from litmus.auditing.adapters import target_of
from litmus.auditing.check import run_check
from litmus.auditing.checks import CHECKS
from litmus.cli import main
from litmus.interop.hf.small_config import small_config
from litmus.testing import assert_cache_matches, assert_causal, assert_loss_is_mean, assert_padding_ignored

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def exit_code(*arguments: str) -> int:
    """The exit code of a `litmus` command."""
    try:
        main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def llama(**options: int) -> torch.nn.Module:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=48, **options)
    return transformers.LlamaForCausalLM(config)


def test_a_sound_model_is_held_to_fp64_although_it_casts_to_fp32():
    model = llama()
    target = target_of(model, quick=True)
    assert target.rounding == 1e-9 and target.context == 48 and target.longest == 96
    assert not {
        ability for ability in ("loss", "cache", "padding mask", "embeddings", "generate") if target.lacks(ability)
    }
    for claim in (assert_causal, assert_cache_matches, assert_padding_ignored, assert_loss_is_mean):
        claim(model)


def test_a_table_of_positions_is_not_left():
    config = transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2, n_positions=24)
    model = transformers.GPT2LMHeadModel(config)
    assert target_of(model, quick=True).longest == 23  # the loss of 23 targets takes 24 tokens
    assert_padding_ignored(model)  # with the positions that generate gives
    assert_loss_is_mean(model)


def test_left_padding_that_shifts_positions_is_found():
    config = transformers.BartConfig(
        vocab_size=61, d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=48, is_decoder=True
    )
    with pytest.raises(AssertionError, match="padding of 1 on the left changes the logits"):
        assert_padding_ignored(transformers.BartForCausalLM(config))


def test_a_cache_that_forgets_is_found():
    model = llama()
    attention = model.model.layers[1].self_attn
    update = transformers.DynamicCache.update

    def forgets(self, keys, values, layer, *more, **named):
        keys, values = update(self, keys, values, layer, *more, **named)
        return (
            (keys, values * (torch.arange(values.shape[2]) > values.shape[2] - 7)[:, None])
            if layer == 1
            else (keys, values)
        )

    assert attention.layer_idx == 1
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(AssertionError, match="differs from the full forward pass"),
    ):
        patch.setattr(transformers.DynamicCache, "update", forgets)
        assert_cache_matches(model)


def test_a_folder_is_audited_and_one_with_code_or_unsafe_weights_is_refused(tmp_path, capsys):
    folder = tmp_path / "tiny"
    llama().save_pretrained(folder)
    assert exit_code("audit", f"hf:{folder}", "--quick", "--only", "prefix consistency", "--limit", "200") == 0
    assert "quick audit of tiny" in capsys.readouterr().out
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert exit_code("audit", f"hf:{folder}", "--quick", "--only", "prefix consistency") == 2
    assert "has its weights in pytorch_model.bin, which can run code" in capsys.readouterr().err
    config = folder / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModelForCausalLM": "mine.Model"}})
    )
    assert exit_code("audit", f"hf:{folder}", "--quick", "--only", "prefix consistency") == 2
    assert "names code of its own (auto_map); read it, then add --trust-plugin" in capsys.readouterr().err


def test_a_large_config_without_weights_is_made_small_and_each_change_is_named(tmp_path, capsys):
    sizes = {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "vocab_size": 32_000}
    transformers.LlamaConfig(**sizes, num_attention_heads=32).save_pretrained(tmp_path / "large")
    assert exit_code("audit", f"hf:{tmp_path / 'large'}", "--quick", "--only", "prefix consistency", "--json") == 0
    note = json.loads(capsys.readouterr().out)["note"]
    assert "new weights: the folder has none; 6,738,415,616 of them would be too many" in note
    for change in ("hidden_size 4,096 -> 32", "num_hidden_layers 32 -> 2", "vocab_size 32,000 -> 101"):
        assert change in note


def test_a_small_config_keeps_every_kind_of_layer():
    config = transformers.JambaConfig()
    small = small_config(config.to_dict())
    kinds = transformers.JambaConfig.from_dict(small).layers_block_type
    assert set(kinds) == set(config.layers_block_type) and len(kinds) < 6
    assert small["pad_token_id"] < small["vocab_size"] == 101


def test_the_limit_of_a_table_is_named_with_what_the_model_says():
    config = transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2, n_positions=24)
    finding = run_check(CHECKS["prefix consistency"], target_of(transformers.GPT2LMHeadModel(config), quick=True), 60)
    assert finding.status == "pass"
    assert "(not checked: texts of more than 23 tokens: the model refuses 25 (IndexError" in finding.detail


def test_a_static_cache_that_is_wrong_is_found(monkeypatch):
    model = llama()
    assert list(target_of(model, quick=True).other_caches()) == ["a StaticCache"]
    update = transformers.cache_utils.StaticLayer.update

    def late(self, keys, values, *more, **named):
        cached, cached_values = update(self, keys, values, *more, **named)
        return cached, cached_values.roll(1, dims=2)

    monkeypatch.setattr(transformers.cache_utils.StaticLayer, "update", late)
    with pytest.raises(AssertionError, match="with a StaticCache, decoding token by token differs"):
        assert_cache_matches(model)


def test_a_cache_that_reorders_wrongly_is_found(monkeypatch):
    reorder = transformers.cache_utils.DynamicLayer.reorder_cache
    monkeypatch.setattr(
        transformers.cache_utils.DynamicLayer, "reorder_cache", lambda self, r: reorder(self, r.flip(0))
    )
    with pytest.raises(AssertionError, match="decoding after rows were repeated and dropped differs"):
        assert_cache_matches(llama())


def test_experts_that_are_multiplied_in_groups_are_held_to_fp64():
    config = transformers.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
    model = transformers.MixtralForCausalLM(config)
    target = target_of(model, quick=True)
    assert target.rounding == 1e-9 and not target.lacks("loss")
    assert_loss_is_mean(model)
    tokens = target.tokens(2, 9)
    exact = target.build_model()(tokens)
    torch.testing.assert_close(exact.float(), model.eval()(tokens).logits, rtol=1e-4, atol=1e-5)


def test_decays_that_decoding_computes_anew_equal_a_table_of_them_in_fp32():
    config = transformers.MiniMaxConfig(
        **SIZES, num_key_value_heads=2, num_local_experts=4, layer_types=["full_attention", "linear_attention"]
    )
    model = transformers.MiniMaxForCausalLM(config)
    target = target_of(model, quick=True)
    assert target.rounding == 1e-9 < target.decoding_rounding
    target.missing["reordered cache"] = "its reorder_cache leaves the states of linear layers in place"
    assert run_check(CHECKS["cache parity"], target, 100).status == "pass"


def test_modules_whose_outputs_grow_in_decoding_do_not_hide_the_fault():
    config = transformers.RoFormerConfig(**SIZES, is_decoder=True, max_position_embeddings=48, hidden_act="gelu")
    target = target_of(transformers.RoFormerForCausalLM(config), quick=True)
    found = run_check(CHECKS["cache parity"], target, 100)  # its positions count the padding
    assert found.detail.startswith("a prefill with padding on the left differs")
    assert "crashed" not in found.detail
