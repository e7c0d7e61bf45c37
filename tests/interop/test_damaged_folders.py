"""Model folders that were damaged, or made to do harm: read, or refused in one sentence, and nothing else."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from litmus.cli import main
from litmus.errors import BadInput
from litmus.interop import import_run
from tests.interop.published import ARCHITECTURES, BEGINS, SPM, byte_level, sentencepiece, write_model, write_tokenizer

HUGE, DEEP = "9" * 5000, "[" * 100_000 + "]" * 100_000
VALUES: list[Any] = [
    *(None, True, "", "64", "linear", "\u0000", "x" * 1000, -1, 0, 1, 2**31, 10**30, 1e30, -0.5, 1e-300),
    *([], {}, [None], [[[]]], {"": {}}, ["full_attention", 3], {"type": 3}, {"type": "Sequence"}, {"content": 3}),
]
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name in ARCHITECTURES:
        made[name] = tmp_path_factory.mktemp("published") / name
        backend, settings = (sentencepiece(), SPM) if name == "llama" else (byte_level(before="<|begin|>"), BEGINS)
        write_tokenizer(made[name], backend, settings)
        write_model(made[name], name, 330)
    return made


def copied(folder: Path, tmp_path: Path) -> Path:
    shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    shutil.copytree(folder, tmp_path / "damaged")
    return tmp_path / "damaged"


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a JSON document, not into long lists and mappings."""
    yield path
    if isinstance(content, dict | list):
        inner = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
        for key, value in inner[:40]:
            yield from places(value, (*path, key))


def with_change(content: Any, path: tuple[Any, ...], value: Any, *, drop: bool) -> Any:
    changed = copy.deepcopy(content)
    if not path:
        return value
    outer = changed
    for key in path[:-1]:
        outer = outer[key]
    if drop:
        del outer[path[-1]]
    else:
        outer[path[-1]] = value
    return changed


def imports_or_refuses(folder: Path, run: Path) -> str:
    """The sentence of the refusal, "" where the folder was read."""
    try:
        import_run(folder, run, log=lambda text: None)
    except BadInput as refusal:
        sentence = str(refusal)
        assert sentence and len(sentence) < 1500 and "\n" not in sentence
        assert not run.exists()
        return sentence
    return ""


@hypothesis.settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_value_anywhere_is_read_or_refused_in_one_sentence(
    data: st.DataObject, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp_path = tmp_path_factory.getbasetemp()
    folder = copied(folders[data.draw(st.sampled_from(sorted(ARCHITECTURES)))], tmp_path)
    path = folder / data.draw(st.sampled_from(FILES))
    content = json.loads(path.read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(sorted(places(content), key=str)))
        value = data.draw(st.sampled_from(VALUES) | st.text(max_size=5) | st.integers() | st.floats(allow_nan=False))
        content = with_change(content, place, value, drop=bool(place) and data.draw(st.booleans()))
        if not isinstance(content, dict | list):
            break
    path.write_text(json.dumps(content))
    imports_or_refuses(folder, tmp_path / "run")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"3", b"null", b"\xff\xfe{}", HUGE.encode(), b'{"vocab_size": ' + HUGE.encode() + b"}"),
        *(DEEP.encode(), b'{"a": ' + DEEP.encode() + b"}", b'{"vocab_size": NaN}'),
        *(b'{"architectures": ["\\ud800"]}', b'{"model": []}'),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_file_that_is_no_json_mapping_is_refused_by_name(
    file: str, content: bytes, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["llama"], tmp_path)
    (folder / file).write_bytes(content)
    sentence = imports_or_refuses(folder, tmp_path / "run")
    if file in ("generation_config.json", "tokenizer_config.json") and content == b'{"model": []}':
        assert sentence == ""  # a mapping, with a key that nobody reads
    else:
        assert file in sentence or "config.json" in sentence


@pytest.mark.parametrize(
    "file, change, sentence",
    [
        ("config.json", {"rope_scaling": "linear"}, "rope_scaling = 'linear'; a mapping is valid"),
        ("config.json", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "RoPE of type 'linear'"),
        (
            "config.json",
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "a kind of layer its own RoPE",
        ),
        ("config.json", {"quantization_config": "fp8"}, "quantized by 'fp8'"),
        ("config.json", {"hidden_size": "64"}, "hidden_size = '64'; a whole number is valid"),
        ("config.json", {"hidden_size": None}, "hidden_size = None; a whole number is valid"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000, and the folder holds"),
        ("config.json", {"hidden_size": 10**30}, "hidden_size = 10000.*less than or equal to 2147483647"),
        ("config.json", {"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 1}, "too large: its embedding"),
        ("config.json", {"layer_types": ["sliding_attention"] * 2}, "layer_types holds 'sliding_attention'"),
        ("config.json", {"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window = True has no equ"),
        ("config.json", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 has no equivalent"),
        ("config.json", {"architectures": "LlamaForCausalLM"}, "architectures = 'LlamaForCausalLM'"),
        ("config.json", {"architectures": []}, "architectures"),
        ("config.json", {"eos_token_id": "</s>"}, "eos_token_id = '</s>'"),
        ("generation_config.json", {"temperature": "hot"}, "temperature = 'hot'; a number is valid"),
        ("generation_config.json", {"eos_token_id": [2, 10_000]}, "eos_token_id = 10000 is outside"),
        ("tokenizer.json", {"added_tokens": None}, "added_tokens = None"),
        ("tokenizer.json", {"model": []}, r"model = \[\]; a mapping is valid"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "normalizer 'Lowercase' changes the text"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": None}}, "pretokenizers = None"),
        ("tokenizer.json", {"post_processor": {"type": "Nonsense"}}, "cannot be used by the tokenizers library"),
        ("tokenizer_config.json", {"eos_token": ["</s>"]}, "eos_token"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(
    file: str, change: dict[str, Any], sentence: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["llama"], tmp_path)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **change}))
    with pytest.raises(BadInput, match=sentence):
        import_run(folder, tmp_path / "run")


@pytest.mark.parametrize(
    "index, sentence",
    [
        ({"weight_map": None}, "weight_map = None; a mapping is valid"),
        ({"weight_map": {}}, "names no files"),
        ({"weight_map": {"a": 3}}, "weight_map.a = 3"),
        ({"weight_map": {"a": "../../etc/passwd"}}, "names '../../etc/passwd'; a .safetensors file next to it"),
        ({"weight_map": {"a": "/etc/x.safetensors"}}, "names '/etc/x.safetensors'"),
        ({"weight_map": {"a": "absent.safetensors"}}, "names 1 files that are not there: 'absent.safetensors'"),
        ({"weight_map": {"a": "n" * 400 + ".safetensors"}}, "names 1 files that are not there"),
        ({}, "weight_map is missing"),
    ],
)
def test_an_index_that_leads_nowhere_or_elsewhere_is_refused(
    index: dict[str, Any], sentence: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["llama"], tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match=sentence):
        import_run(folder, tmp_path / "run")


@pytest.mark.parametrize(
    "number, sentence",
    [
        (lambda t: t.fill_(torch.nan), "model.norm.weight holds NaN or infinity"),
        (lambda t: t.fill_(-torch.inf), "model.norm.weight holds NaN or infinity"),
        (lambda t: t.double() * 0 + 1e300, "model.norm.weight holds NaN or infinity in fp32"),
        (lambda t: t.to(torch.int8), r"quantized.*model.norm.weight \(torch.int8\)"),
        (lambda t: t.to(torch.float8_e4m3fn), r"quantized.*model.norm.weight \(torch.float8_e4m3fn\)"),
    ],
)
def test_weights_that_mean_nothing_are_refused_by_name(
    number: Any, sentence: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["llama"], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = number(tensors["model.norm.weight"])
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadInput, match=sentence):
        import_run(folder, tmp_path / "run")


@pytest.mark.parametrize("size", [0, 7, 8, 200, 4000])
def test_a_weights_file_cut_anywhere_is_refused(size: int, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama"], tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:size])
    assert "model.safetensors" in imports_or_refuses(folder, tmp_path / "run")


def test_a_recipe_in_a_config_names_no_code_of_its_own(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = copied(folders["llama"], tmp_path)
    marker, plugin = tmp_path / "ran", tmp_path / "damaged" / "evil.py"
    plugin.write_text(f"open({str(marker)!r}, 'w')")
    for key in ("base", "plugin"):
        named = {key: str(plugin) if key == "base" else {"path": str(plugin), "sha256": "0" * 64}}
        config = {"architectures": ["LitmusForCausalLM"], "litmus_recipe": {"vocab_size": 330, **named}}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(BadInput, match=f"litmus_recipe in config.json has the key {key!r}, which names code"):
            import_run(folder, tmp_path / "run")
    assert not marker.exists()


def test_bytes_are_refused_for_a_model_with_a_vocabulary_of_its_own(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama"], tmp_path)
    with pytest.raises(BadInput, match=r"vocabulary of its own, \d+ tokens in tokenizer.json, which are not bytes"):
        import_run(folder, tmp_path / "run", use_bytes=True)
    write_model(tmp_path / "wide", "llama", 1000)
    with pytest.raises(BadInput, match="a model of 1000 tokens, which are not bytes; put the tokenizer's"):
        import_run(tmp_path / "wide", tmp_path / "run")


def test_the_command_says_it_in_one_sentence_and_exits_with_2(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copied(folders["llama"], tmp_path)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "rope_scaling": "linear"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["import", str(folder), "--name", "mine"])
    out, err = capfd.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize(("key", "value", "valid"), [("bos_token_id", [], None), ("eos_token_id", [], None),
                                                     ("bos_token_id", -1, None), ("eos_token_id", 2**31, "16777216"),
                                                     ("eos_token_id", [2**70], "16777216"),
                                                     ("bos_token_id", 2**31, "16777216")])  # fmt: skip
def test_token_numbers_that_no_vocabulary_has_are_passed_over_or_named(
    folders: dict[str, Path], name: str, key: str, value: Any, valid: str | None, tmp_path: Path
) -> None:
    folder = copied(next(iter(folders.values())), tmp_path)
    said = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps({**said, key: value}))
    if valid is None:
        import_run(folder, tmp_path / "run")
    else:
        with pytest.raises(BadInput, match=f"{name}: {key}.*{valid}"):
            import_run(folder, tmp_path / "run")
