"""What a published model says beside its weights is kept: by import, generation, scores, training and export."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from litmus.data import DataSettings, load_tokenizer
from litmus.errors import BadInput
from litmus.generation import generate
from litmus.interop import export_run, import_run
from litmus.training import TrainSettings
from litmus.training.evaluation import evaluate_run
from litmus.training.run.loading import data_to_continue, load_run
from litmus.training.trainer import train_run
from tests.interop.published import (
    ARCHITECTURES,
    BEGINS,
    SPM,
    TEMPLATE,
    TOKENIZERS,
    byte_level,
    sentencepiece,
    write_model,
    write_tokenizer,
)

PROBES = [
    *(
        "the cat",
        "Hello, the cat's mat",
        " leading",
        "  two",
        "a\n\tb",
        "café",
        "cafe\u0301 猫 🙂",
        "trailing ",
        "\nnew",
    ),
    "<s>the</s> cat <|end|> <|begin|><|im_start|>user",
]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prompt_is_the_tokens_that_transformers_makes_of_it(name: str, tmp_path: Path) -> None:
    make, settings = TOKENIZERS[name]
    write_tokenizer(tmp_path, make(), settings)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved")
    for tokenizer in (ours, load_tokenizer(tmp_path / "saved")):
        for text in PROBES:
            assert tokenizer.prompt(text, allow_special=True) == theirs(text)["input_ids"], text
            assert tokenizer.prompt(text) == theirs(text, split_special_tokens=True)["input_ids"], text
            assert not {*tokenizer.encode(text)} & {*tokenizer.special.values()}


def two_ends(folder: Path, name: str = "llama", **config: Any) -> transformers.PreTrainedModel:
    """A model with a begin token, two ends, a template and generation defaults, in bf16."""
    write_tokenizer(folder, byte_level(before="<|begin|>"), BEGINS)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokens = {"bos_token_id": 1, "eos_token_id": [2, 4], "pad_token_id": 0}
    model = write_model(folder, name, 300, dtype=torch.bfloat16, **tokens, **config)
    said = json.loads((folder / "generation_config.json").read_text())
    said |= {**tokens, "do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 7}
    (folder / "generation_config.json").write_text(json.dumps(said))
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_text_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    two_ends(tmp_path / "theirs", name)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    import_run(tmp_path / "theirs", tmp_path / "run")
    run = load_run(tmp_path / "run")
    for text in ("the cat", "again, 12345", "<|im_start|>"):
        prompt = tokenizer(text, return_tensors="pt", split_special_tokens=True)
        written = model.generate(**prompt, do_sample=False, max_new_tokens=24)[0, prompt["input_ids"].shape[1] :]
        expected = tokenizer.decode(written, skip_special_tokens=True)
        assert generate(run.model, text, tokenizer=run.tokenizer, max_new_tokens=24, temperature=0.0) == [expected]


def test_every_end_token_ends_a_generation(tmp_path: Path) -> None:
    two_ends(tmp_path / "theirs")
    import_run(tmp_path / "theirs", tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.tokenizer.stop_ids == (2, 4)
    for stop in run.tokenizer.stop_ids:
        biased = generate(run.model, "the", tokenizer=run.tokenizer, temperature=0.0, logit_bias={stop: 1e4})
        assert biased == [""]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_was_imported_is_exported_as_it_was(name: str, tmp_path: Path) -> None:
    theirs, back = tmp_path / "theirs", tmp_path / "back"
    two_ends(theirs, name)
    import_run(theirs, tmp_path / "run")
    export_run(tmp_path / "run", back)
    assert {path.name for path in back.iterdir()} >= {path.name for path in theirs.iterdir()}
    for file in theirs.glob("*.json"):
        assert json.loads((back / file.name).read_text()) == json.loads(file.read_text()), file.name
    assert (back / "chat_template.jinja").read_bytes() == (theirs / "chat_template.jinja").read_bytes()
    before, after = load_file(theirs / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)


def test_a_factor_of_the_config_that_went_into_the_weights_comes_out_again(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
    rope = {**yarn, "mscale": 1.0, "mscale_all_dim": 0.7}
    two_ends(tmp_path / "theirs", "deepseek-v3", rope_parameters=rope)
    import_run(tmp_path / "theirs", tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "back")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_tensors_of_several_number_formats_keep_theirs(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    two_ends(tmp_path / "theirs")
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float() + 1e-4
    save_file(tensors, tmp_path / "theirs" / "model.safetensors", metadata={"format": "pt"})
    import_run(tmp_path / "theirs", tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "back")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(after[key], tensors[key]) and after[key].dtype == tensors[key].dtype for key in tensors)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for number in range(20):
        (tmp_path / "text" / f"{number:02}.txt").write_text(f"the cat {number} sat on the mat again " * (10 + number))
    return tmp_path / "text"


@pytest.mark.parametrize("make, settings", [(lambda: byte_level(before="<|begin|>"), BEGINS), (sentencepiece, SPM)])
def test_a_score_is_that_of_transformers_over_windows_begun_as_the_model_expects(
    make: Any, settings: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path / "theirs", make(), settings)
    model = write_model(tmp_path / "theirs", "llama", 330).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    import_run(tmp_path / "theirs", tmp_path / "run")
    score = evaluate_run(tmp_path / "run", data=str(corpus), context=24, device="cpu", precision="fp32")
    run = load_run(tmp_path / "run")
    settings_of_data = DataSettings(corpus=str(corpus), tokenizer=str(tmp_path / "run"))
    held_out = data_of(settings_of_data).held_out.tolist()
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    documents = split(held_out[:-1], [end, begin], begin)
    texts = [path.read_text() for path in sorted(corpus.iterdir())]
    assert documents and all(tokenizer.decode(document) in texts for document in documents)
    assert score.bytes == sum(len(tokenizer.decode(document).encode()) for document in documents)
    nats, scored = 0.0, 0
    for start in range(0, len(held_out) - 1, 23):
        row = held_out[start : start + 24]
        inputs = torch.tensor([row if row[0] == begin else [begin, *row]])[:, :-1]
        with torch.no_grad():
            logprobs = model(inputs).logits[0].log_softmax(-1)[-len(row) + 1 :]
        for place, target in enumerate(row[1:]):
            if target != begin:
                nats, scored = nats - float(logprobs[place, target]), scored + 1
    assert score.tokens == scored
    assert math.isclose(score.nats_per_token, nats / scored, rel_tol=1e-5)
    assert math.isclose(score.bits_per_byte, nats / math.log(2) / score.bytes, rel_tol=1e-5)
    assert run.tokenizer.window_prefix == (begin,)


def data_of(settings: DataSettings) -> Any:
    from litmus.data import prepare

    return prepare(settings)


def split(tokens: list[int], between: list[int], first: int) -> list[list[int]]:
    """The documents of a stream that begins with the token `first`."""
    assert tokens[0] == first
    documents: list[list[int]] = [[]]
    for place in range(1, len(tokens)):
        if tokens[place : place + 2] == between:
            documents.append([])
        elif tokens[place] != first:
            documents[-1].append(tokens[place])
    return documents


def test_a_tuned_run_keeps_what_its_start_was_imported_with(corpus: Path, tmp_path: Path) -> None:
    two_ends(tmp_path / "theirs")
    import_run(tmp_path / "theirs", tmp_path / "run")
    start = load_run(tmp_path / "run")
    settings = TrainSettings(budget="2 steps", batch=2, context=16, lr=1e-2, device="cpu", precision="fp32", threads=1)
    data = data_to_continue(start, DataSettings(corpus=str(corpus)))
    train_run(start.model.recipe, data, settings, tmp_path / "tuned", start=start)
    export_run(tmp_path / "tuned", tmp_path / "back")
    for file in (tmp_path / "theirs").glob("*.json"):
        assert json.loads((tmp_path / "back" / file.name).read_text()) == json.loads(file.read_text()), file.name
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}


def test_a_tokenizer_that_lacks_bytes_refuses_only_a_text_that_holds_one(tmp_path: Path) -> None:
    backend = json.loads(byte_level().to_str())
    lacking = {0x04: "Ą", 0xF1: "ñ"}
    for symbol in lacking.values():
        del backend["model"]["vocab"][symbol]
    backend["model"]["merges"] = []
    write_tokenizer(tmp_path, byte_level(), BEGINS)
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("the café 猫 ñ")) == "the café 猫 ñ"  # ñ is 0xc3 0xb1
    for text, named in (("end\x04of", r"'\\x04' \(bytes 0x04\)"), ("\U00050000", "bytes 0xf1 0x90 0x80 0x80")):
        with pytest.raises(BadInput, match=named):
            tokenizer.encode(text)


def test_sentencepiece_without_bytes_to_fall_back_on_refuses_only_an_unknown_character(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, sentencepiece(byte_fallback=False), SPM)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("the cat sat")) == "the cat sat"
    with pytest.raises(BadInput, match="no token for the character '猫'"):
        tokenizer.encode("the 猫 sat")


def test_special_tokens_are_read_out_of_a_prompt_only_on_request(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level(), BEGINS)
    tokenizer = load_tokenizer(tmp_path)
    text = "<|im_start|>user\nthe cat<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    asked = tokenizer.encode(text, allow_special=True)
    assert (asked[0], asked[-1]) == (3, 4) and len(asked) < len(tokenizer.encode(text))


def test_a_special_token_that_text_is_encoded_to_is_refused(tmp_path: Path) -> None:
    backend = json.loads(byte_level().to_str())
    backend["added_tokens"].append(
        {**backend["added_tokens"][0], "id": backend["model"]["vocab"]["he"], "content": "he"}
    )
    write_tokenizer(tmp_path, byte_level(), BEGINS)
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    with pytest.raises(BadInput, match="plain text can be encoded to its special token 'he'"):
        load_tokenizer(tmp_path)


def test_a_saved_tokenizer_without_its_surroundings_is_what_it_was(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level(before="<|begin|>", nfc=True), BEGINS)
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.json").write_text(json.dumps({"name": "old", "file": file, "end": 2}))
    old = load_tokenizer(tmp_path / "run")
    assert (old.eos_id, old.prefix, old.window_prefix, old.stop_ids) == (2, (2,), (), (2,))
    assert old.decode(old.encode("cafe\u0301")) == "cafe\u0301" and old.prompt("the")[0] == 2
