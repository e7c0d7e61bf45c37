"""A model is loaded, used and exported from wherever it lies: a run, or a folder that `litmus.save` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import litmus
from litmus.cli import main
from litmus.data import load_tokenizer
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.errors import BadInput
from litmus.interop import export_model, export_run, import_run
from litmus.training.evaluation import evaluate_run
from litmus.training.run.loading import load_run

SIZES = {"dim": 32, "depth": 1, "heads": 2, "context": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run, a run; saved, its model without a tokenizer; exported, its model for transformers."""
    folder = tmp_path_factory.mktemp("opening")
    model = litmus.build("standard", vocab_size=257, overrides=SIZES)
    export_model(model, ByteTokenizer(), folder / "exported")
    import_run(folder / "exported", folder / "run")
    litmus.save(litmus.load(folder / "run"), folder / "saved")
    return folder


def typed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_a_run_and_a_saved_model_load_alike(folders: Path) -> None:
    tokens = torch.arange(6)[None]
    logits = [litmus.load(folders / name).eval()(tokens) for name in ("run", "saved", "run/checkpoints/0")]
    assert all(torch.equal(other, logits[0]) for other in logits)


def test_text_is_generated_from_a_saved_model_with_a_named_tokenizer(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--prompt", "ab", "--max-new-tokens", "8")
    code, expected, said = typed(capsys, "generate", folders / "run", *options)
    assert code == 0, said
    for name in ("bytes", folders / "run", folders / "run/tokenizer/tokenizer.json"):
        assert typed(capsys, "generate", folders / "saved", "--tokenizer", name, *options)[:2] == (0, expected)


def test_a_saved_model_is_exported_with_or_without_a_tokenizer(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = typed(capsys, "export", folders / "saved", "--out", tmp_path / "bare")
    assert code == 0 and "keeps no tokenizer: none is written" in said
    assert typed(capsys, "export", folders / "saved", "--out", tmp_path / "whole", "--tokenizer", "bytes")[0] == 0
    assert not (tmp_path / "bare/tokenizer.json").exists()
    assert (tmp_path / "bare/model.safetensors").read_bytes() == (folders / "exported/model.safetensors").read_bytes()
    for file in ("config.json", "tokenizer.json"):
        theirs, ours = ((place / file).read_text() for place in (folders / "exported", tmp_path / "whole"))
        assert json.loads(ours) == json.loads(theirs)


def test_what_a_saved_model_cannot_do_without_a_tokenizer_names_the_option(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("generate", "chat"):
        code, _, said = typed(capsys, command, folders / "saved")
        assert code == 2 and "saved is a saved model, which keeps no tokenizer" in said and "--tokenizer bytes" in said


@pytest.mark.parametrize(
    ("folder", "name", "sentence"),
    [
        ("run", "bytes", "run is a run and has a tokenizer of its own; leave --tokenizer out"),
        ("saved", "bpe-4096", "bpe-4096 is learned from each text anew; name the run"),
        ("saved", "bites", "unknown tokenizer 'bites'; did you mean 'bytes'"),
        ("saved", "large.json", "has 258 tokens and the model in .*saved takes 257"),
    ],
)
def test_a_tokenizer_that_cannot_be_the_models_is_refused(
    folder: str, name: str, sentence: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from litmus.data.tokens.tokenizer import BytePairTokenizer

    BytePairTokenizer("large", ["a b"]).save(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "large.json")
    named = tmp_path / name if name == "large.json" else name
    code, _, said = typed(capsys, "generate", folders / folder, "--tokenizer", named)
    assert code == 2
    import re

    assert re.search(sentence, said), said


def test_what_holds_no_model_is_refused_by_name(tmp_path: Path, folders: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half/recipe.yaml").write_text("name: x\n")
    with pytest.raises(BadInput, match=r"half holds no model: recipe.yaml and model.safetensors are expected"):
        litmus.load(tmp_path / "half")
    with pytest.raises(BadInput, match="nowhere is not a run folder"):
        litmus.load(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="make a run of this model with: litmus import"):
        litmus.load(folders / "exported")


def test_every_public_call_takes_a_text_or_a_path(folders: Path, tmp_path: Path) -> None:
    for number, kind in enumerate((str, Path)):
        model = litmus.load(kind(folders / "run"))
        litmus.save(model, kind(tmp_path / f"saved{number}"))
        assert load_run(kind(folders / "run")).folder == folders / "run"
        assert litmus.audit(kind(tmp_path / f"saved{number}"), quick=True, only=["causality"]).passed
        export_run(kind(folders / "run"), kind(tmp_path / f"exported{number}"))
        import_run(kind(tmp_path / f"exported{number}"), kind(tmp_path / f"run{number}"))
        load_tokenizer(kind(folders / "run/tokenizer")).save(kind(tmp_path / f"tokenizer{number}"))
        (tmp_path / "text.txt").write_text("some words to score, over and over\n" * 50)
        evaluate_run(kind(folders / "run"), data=str(tmp_path / "text.txt"))
