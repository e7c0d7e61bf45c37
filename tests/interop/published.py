"""Small folders as transformers writes them: random models of several architectures, with tokenizers built here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

TEXT = ["the cat sat on the mat, the café cat 猫 sat\n    again and again, 1234567 times\n" * 20]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
LATENT: dict[str, Any] = {
    **SMALL,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3ForCausalLM", {**SMALL, "num_key_value_heads": 2, "head_dim": 8}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "deepseek-v2": ("DeepseekV2ForCausalLM", LATENT),
    "deepseek-v3": ("DeepseekV3ForCausalLM", {**LATENT, "n_group": 2, "topk_group": 1}),
}


def byte_level(
    *,
    prefix_space: bool = False,
    nfc: bool = False,
    before: str = "",
    after: str = "",
    special: tuple[str, ...] = ("<pad>", "<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"),
) -> Backend:
    """BPE on bytes; `before` and `after` are the special tokens that it puts around a text."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    if nfc:
        backend.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options: dict[str, Any] = {"initial_alphabet": alphabet, "special_tokens": list(special), "show_progress": False}
    backend.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, **options))
    if before or after:
        around = [(name, backend.token_to_id(name)) for name in (before, after) if name]
        single = f"{before} $A {after}".strip()
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    return backend


def sentencepiece(*, normalized: bool = True, byte_fallback: bool = True) -> Backend:
    """BPE as SentencePiece writes it: spaces as ▁, one before the text, bytes for characters that it lacks."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    if byte_fallback:
        vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for symbol in ["▁", *sorted(set("".join(TEXT)) - set(" \n猫"))]:
        vocab[symbol] = len(vocab)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "c"), ("a", "t"), ("▁c", "at"), ("▁", "▁"), ("▁▁", "▁▁")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    unknown: dict[str, Any] = {"unk_token": "<unk>", "fuse_unk": True}
    backend = Backend(models.BPE(vocab=vocab, merges=merges, byte_fallback=byte_fallback, **unknown))
    if normalized:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    named = ("<unk>", "<s>", "</s>")
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in named])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


BEGINS: dict[str, Any] = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<pad>"}
SPM: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TOKENIZERS: dict[str, tuple[Callable[[], Backend], dict[str, Any]]] = {
    "no begin token": (byte_level, {"eos_token": "<|end|>"}),
    "a begin token that is not put before a text": (byte_level, BEGINS),
    "begun and composed": (lambda: byte_level(before="<|begin|>", nfc=True), BEGINS),
    "begun and ended": (lambda: byte_level(before="<|begin|>", after="<|end|>"), BEGINS),
    "add_bos_token without a post-processor": (byte_level, {**BEGINS, "add_bos_token": True}),
    "a space before": (lambda: byte_level(prefix_space=True), BEGINS),
    "GPT-2's class": (byte_level, {**BEGINS, "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
    "SentencePiece by a normalizer": (sentencepiece, SPM),
    "SentencePiece by Metaspace": (lambda: sentencepiece(normalized=False), SPM),
    "Llama's class": (sentencepiece, {**SPM, "tokenizer_class": "LlamaTokenizer", "legacy": False}),
    "Llama's class of old": (sentencepiece, {**SPM, "tokenizer_class": "LlamaTokenizerFast", "legacy": True}),
}


def write_tokenizer(folder: Path, backend: Backend, settings: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    whole = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(whole))


def write_model(
    folder: Path, name: str, vocab_size: int, *, dtype: torch.dtype = torch.float32, **config: Any
) -> transformers.PreTrainedModel:
    """A random model whose weights are all away from their start."""
    architecture, options = ARCHITECTURES[name]
    kind = getattr(transformers, architecture)
    torch.manual_seed(5)
    model = kind(kind.config_class(**{"vocab_size": vocab_size, **options, **config})).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("correction_bias"):
                buffer += 0.05 * torch.randn_like(buffer)
    model.save_pretrained(folder)
    return model
