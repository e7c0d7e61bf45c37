"""An imported run is a run like any other: scored, generated from, trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from litmus.data import DataSettings
from litmus.data.tokenizers import BytePairTokenizer, ByteTokenizer, Tokenizer
from litmus.errors import BadInput
from litmus.generation import generate
from litmus.interop import export_model, import_run
from litmus.interop.tokenizer_files import read_tokenizer, write_tokenizer
from litmus.model import Decoder, build
from litmus.training import TrainSettings, load_run, score_run, train

SETTINGS = TrainSettings(budget="3 steps", batch=2, lr=1e-4, device="cpu", precision="fp32", threads=1)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for number in range(10):
        (tmp_path / "text" / f"{number}.txt").write_text(f"The number {number} and what follows it. " * 30)
    return str(tmp_path / "text")


@pytest.fixture
def folder(rough: Callable[..., Decoder], tmp_path: Path) -> Path:
    small = {"dim": 32, "depth": 2, "heads": 4, "context": 32}
    export_model(
        rough(build("standard", vocab_size=257, overrides=small), torch.float32), ByteTokenizer(), tmp_path / "hf"
    )
    return tmp_path / "hf"


def test_an_imported_run_is_scored_and_generated_from(folder: Path, corpus: str, tmp_path: Path) -> None:
    import_run(folder, tmp_path / "runs" / "mine")
    score = score_run(tmp_path / "runs" / "mine", corpus=corpus, device="cpu", precision="fp32")
    assert score.tokens > 100 and score.nats_per_token > 0
    run = load_run(tmp_path / "runs" / "mine")
    assert len(generate(run.model, ["The"], tokenizer=run.tokenizer, max_new_tokens=5)) == 1


def test_training_takes_up_an_imported_run_at_its_weights(folder: Path, corpus: str, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    import_run(folder, run, corpus=corpus, settings=SETTINGS)
    before = load_run(run).model
    start = score_run(run, device="cpu", precision="fp32")
    result = train(run / "recipe.yaml", DataSettings(corpus=corpus, tokenizer="bytes"), SETTINGS, run)
    after = load_run(run)
    assert after.step == 3
    assert result.evaluation.nats_per_token < start.nats_per_token
    moved = max((a - b).abs().max().item() for a, b in zip(after.model.parameters(), before.parameters(), strict=True))
    assert 0 < moved < 0.01  # three small steps from the imported weights, not a new start


def test_an_imported_run_is_not_taken_for_one_that_never_began(folder: Path, corpus: str, tmp_path: Path) -> None:
    import_run(folder, tmp_path / "runs" / "mine")
    settings = DataSettings(corpus=corpus, tokenizer="bytes")
    with pytest.raises(BadInput, match="belongs to a run"):
        train("standard", settings, SETTINGS, tmp_path / "runs" / "mine")
    assert load_run(tmp_path / "runs" / "mine").step == 0


def test_a_corpus_that_teaches_another_tokenizer_is_refused(corpus: str, tmp_path: Path) -> None:
    tokenizer = BytePairTokenizer("bpe-259", ["z z", "q q"])
    small = {"dim": 32, "depth": 2, "heads": 4, "context": 32}
    export_model(build("standard", vocab_size=259, overrides=small), tokenizer, tmp_path / "hf")
    with pytest.raises(BadInput, match="is not the model's tokenizer"):
        import_run(tmp_path / "hf", tmp_path / "runs" / "mine", corpus=corpus)
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_tokenizer_takes_bytes_and_says_so(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    said: list[str] = []
    import_run(folder, tmp_path / "runs" / "mine", announce=said.append)
    assert "no tokenizer.json" in said[0]
    assert load_run(tmp_path / "runs" / "mine").tokenizer.name == "bytes"


@pytest.mark.parametrize(
    "tokenizer",
    [ByteTokenizer(), BytePairTokenizer("bpe-257", []), BytePairTokenizer("bpe-260", ["Ġ t", "h e", "Ġt he"])],
)
def test_tokenizers_come_back_as_what_they_were(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert write_tokenizer(tokenizer, tmp_path, 64) == {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}
    back = read_tokenizer(tmp_path)
    assert back is not None
    assert (back.name, back.pieces, back.end) == (tokenizer.name, tokenizer.pieces, tokenizer.end)


@pytest.mark.parametrize(
    "change", [{"model": {"type": "Unigram", "vocab": []}}, {"added_tokens": []}, {"normalizer": {"type": "NFC"}}]
)
def test_a_tokenizer_of_another_form_is_refused_unless_bytes_are_asked_for(
    change: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    import json

    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadInput, match="--bytes"):
        import_run(folder, tmp_path / "runs" / "mine")
    import_run(folder, tmp_path / "runs" / "mine", use_bytes=True)
