"""GGUF files, written by the package gguf, give the same model as the same weights in a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, dequantize, quantize
from safetensors.torch import load_file, save_file

from litmus.cli import main
from litmus.data.chat.template import Message, template_of
from litmus.errors import BadInput
from litmus.interop import export_run, import_run
from litmus.training.run.loading import imported_facts, load, load_with_tokenizer
from tests.interop.gguf_files import metadata_of, tensors_of, write

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_1"]
CHAT: list[Message] = [
    {"role": "system", "content": "the mat"},
    {"role": "user", "content": "the cat 猫 12 34?"},
    {"role": "assistant", "content": "again\n"},
    {"role": "user", "content": "the café"},
]


@pytest.mark.parametrize("kind", TYPES)
def test_logits_are_those_of_the_same_weights_in_a_folder(kind: str, llama_folder: Path, tmp_path: Path) -> None:
    rounded = {}
    coding = GGMLQuantizationType[kind]
    for name, tensor in load_file(llama_folder / "model.safetensors").items():
        value = tensor.numpy()
        rounded[name] = torch.from_numpy(dequantize(quantize(value, coding), coding) if value.ndim == 2 else value)
    for path in llama_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(rounded, tmp_path / "model.safetensors", metadata={"format": "pt"})
    import_run(tmp_path, tmp_path / "expected")
    import_run(
        write(tmp_path / "m.gguf", metadata_of(llama_folder), tensors_of(llama_folder, kind)), tmp_path / "found"
    )
    tokens = torch.randint(300, (2, 30))
    found, expected = load(tmp_path / "found"), load(tmp_path / "expected")
    assert found.recipe.model_copy(update={"name": "expected"}) == expected.recipe
    assert torch.equal(found(tokens), expected(tokens))


def test_a_chat_has_the_tokens_of_transformers_and_its_end(llama_folder: Path, tmp_path: Path) -> None:
    import_run(write(tmp_path / "m.gguf", metadata_of(llama_folder), tensors_of(llama_folder, "F32")), tmp_path / "run")
    _, ours = load_with_tokenizer(tmp_path / "run")
    assert ours is not None
    template = template_of(tmp_path / "run", ours)
    assert template is not None
    export_run(tmp_path / "run", tmp_path / "out")
    for path in (llama_folder, tmp_path / "out"):
        theirs = transformers.AutoTokenizer.from_pretrained(path)
        given: Any = [dict(message) for message in CHAT]
        ids = theirs.apply_chat_template(given, add_generation_prompt=True, return_dict=False)
        assert template.encode(CHAT, ours) == ids
    assert ours.stop_ids == (ours.special["<|im_end|>"],)
    assert template.stops(ours) == ([*ours.stop_ids, ours.special["<|im_end|>"]], [])


def test_digits_are_single_tokens_in_the_pre_tokenizer_of_smollm(llama_folder: Path, tmp_path: Path) -> None:
    tokens = {}
    for pre in ("gpt-2", "smollm"):
        metadata = {**metadata_of(llama_folder), "tokenizer.ggml.pre": pre}
        import_run(write(tmp_path / f"{pre}.gguf", metadata, tensors_of(llama_folder, "F32")), tmp_path / pre)
        _, tokenizer = load_with_tokenizer(tmp_path / pre)
        assert tokenizer is not None
        tokens[pre] = [tokenizer.decode([token]) for token in tokenizer.encode("1234567 times")]
    assert tokens["smollm"][:7] == list("1234567") != tokens["gpt-2"][:7]


def test_what_surrounds_a_text_ends_it_and_samples_it_is_kept(llama_folder: Path, tmp_path: Path) -> None:
    metadata = metadata_of(llama_folder)
    metadata |= {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.eot_token_id": 2,
        "general.sampling.temp": 0.5,
        "general.sampling.top_k": 7,
    }
    import_run(write(tmp_path / "m.gguf", metadata, tensors_of(llama_folder, "F16")), tmp_path / "run")
    _, tokenizer = load_with_tokenizer(tmp_path / "run")
    assert tokenizer is not None
    begin, end = tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]
    assert tokenizer.prompt("the cat") == [begin, *tokenizer.encode("the cat")]
    assert tokenizer.stop_ids == (end, 2)
    facts = imported_facts(tmp_path / "run")
    assert facts is not None and facts.dtype == "float16"
    assert facts.generation_config == {"do_sample": True, "temperature": 0.5, "top_k": 7}


Change = Callable[[dict[str, Any], dict[str, Any]], None]


def setting(key: str, value: Any) -> Change:
    return lambda metadata, tensors: metadata.update({key: value})


def without(key: str) -> Change:
    return lambda metadata, tensors: (metadata if key in metadata else tensors).pop(key)


def tensor(name: str, shape: tuple[int, ...], kind: str = "F32") -> Change:
    dtype = {"F32": np.float32, "I32": np.int32}[kind]
    return lambda metadata, tensors: tensors.update({name: (np.ones(shape, dtype), GGMLQuantizationType[kind])})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("llama.block_count"), "llama.block_count is missing"),
        (setting("llama.block_count", 10**9), "llama.block_count = 1000000000, and the file holds"),
        (setting("llama.block_count", 3), r"lacks 9 tensors of a Llama with 3 layers: blk\.2\.attn_norm\.weight"),
        (setting("llama.embedding_length", 0), "llama.embedding_length = 0"),
        (setting("llama.attention.head_count", [4, 4]), r"llama.attention.head_count = \[4, 4\]; a whole number"),
        (setting("llama.rope.scaling.type", "linear"), "llama.rope.scaling.type = 'linear' has no equivalent"),
        (setting("llama.expert_count", 8), "llama.expert_count = 8 has no equivalent"),
        (setting("llama.rope.dimension_count", 4), "llama.rope.dimension_count = 4 has no equivalent .*valid: 8"),
        (without("blk.1.ffn_up.weight"), r"lacks 1 tensors .*: blk\.1\.ffn_up\.weight"),
        (tensor("rope_freqs.weight", (4,)), r"tensor 'rope_freqs\.weight' has no equivalent"),
        (tensor("blk.0.ffn_up.weight", (8, 32)), r"1 misshapen: model\.layers\.0\.mlp\.up_proj\.weight is \(8, 32\)"),
        (tensor("blk.0.attn_q.weight", (8, 32)), r"1 misshapen: model\.layers\.0\.self_attn\.q_proj\.weight"),
        (tensor("blk.0.ffn_up.weight", (64, 32), "I32"), r"'blk\.0\.ffn_up\.weight' is I32, which cannot be"),
        (setting("tokenizer.ggml.model", "llama"), "tokenizer.ggml.model = 'llama' has no equivalent.*valid: 'gpt2'"),
        (setting("tokenizer.ggml.pre", "qwen2"), "tokenizer.ggml.pre = 'qwen2' has no equivalent.*'smollm'"),
        (setting("tokenizer.ggml.tokens", ["a", "a"]), "the token 'a' occurs twice"),
        (setting("tokenizer.ggml.eos_token_id", 300), "the eos token is 300, and there are 300 tokens"),
        (setting("tokenizer.ggml.merges", ["a"]), "cannot be used by the tokenizers library"),
        (without("tokenizer.ggml.eos_token_id"), "tokenizer.ggml.eos_token_id is missing"),
        (setting("tokenizer.chat_template", 5), "tokenizer.chat_template = 5"),
        (setting("general.sampling.temp", -1.0), "general.sampling: temperature = -1.0"),
        (setting("general.alignment", 0), "general.alignment = 0; a power of two is valid"),
    ],
)
def test_what_has_no_equivalent_is_refused_by_name(
    change: Change, sentence: str, llama_folder: Path, tmp_path: Path
) -> None:
    metadata, tensors = metadata_of(llama_folder), tensors_of(llama_folder, "F32")
    change(metadata, tensors)
    if metadata.get("general.alignment") == 0:  # the writer itself refuses it
        path = write(tmp_path / "m.gguf", {**metadata, "general.alignment": 99}, tensors)
        key = b"general.alignment" + (4).to_bytes(4, "little")
        path.write_bytes(path.read_bytes().replace(key + b"\x63", key + b"\0"))
    else:
        path = write(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(BadInput, match=sentence) as refusal:
        import_run(path, tmp_path / "run")
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_is_one_sentence(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    metadata = metadata_of(llama_folder)
    whole = write(tmp_path / "m.gguf", metadata, tensors_of(llama_folder, "Q8_0")).read_bytes()
    key = b"llama.block_count"
    at, tokens = whole.index(key) + len(key), whole.index(b"tokenizer.ggml.token_type") + 25
    long = (2**62).to_bytes(8, "little")
    damaged = {
        "begins with b'GGML'": b"GGML" + whole[4:],
        "begins with b''": b"",
        "its version is 9": whole[:4] + b"\x09" + whole[5:],
        "ends after 20 bytes, in its header": whole[:20],
        "in its header; it is not whole": whole[:at],
        "bytes, in its header": whole[: tokens + 8] + long + whole[tokens + 16 :],
        "before its tensor 'output_norm.weight' does": whole[:-100],
        "a value of type 77": whole[:at] + b"\x4d" + whole[at + 1 :],
        "an array of type 9": whole[: tokens + 4] + b"\x09" + whole[tokens + 5 :],
        "is not UTF-8": whole.replace(key, b"\xff" * len(key)),
        "'llama.block_count' occurs twice": whole.replace(b"llama.vocab_count", key),
    }
    for sentence, content in damaged.items():
        Path("damaged.gguf").write_bytes(content)
        with pytest.raises(SystemExit) as ended:
            main(["import", "damaged.gguf"])
        out, err = capsys.readouterr()
        assert (ended.value.code, out, err.count("\n")) == (2, "", 1) and sentence in err, (sentence, err)
    Path("circle").symlink_to("circle")
    for arguments, sentence in (
        (["import", "circle"], "'circle' is neither a model folder"),
        (["import", "absent"], "is neither a model folder, nor a GGUF file"),
        (["import", "smollm2-135"], "did you mean 'smollm2-135m'?"),
        (["import", "m.gguf", "--bytes"], "leave out --bytes"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2 and sentence in capsys.readouterr().err
    other = write(tmp_path / "other.gguf", metadata, tensors_of(llama_folder, "F32"), architecture="gemma3")
    with pytest.raises(BadInput, match=r"general\.architecture = 'gemma3' has no equivalent in Litmus; valid: 'llama'"):
        import_run(other, "run")


def test_without_the_package_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for source in (tmp_path / "m.gguf", "smollm2-135m"):
        with pytest.raises(
            BadInput, match=r"needs the package 'gguf'; install it with: pip install 'litmus-lm\[gguf\]'"
        ):
            import_run(source, tmp_path / "run")
