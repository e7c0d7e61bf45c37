"""An imported run is a run like any other: scored, generated from, trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from litmus.data import DataSettings, load_tokenizer
from litmus.data.tokens.tokenizer import BytePairTokenizer, ByteTokenizer, Tokenizer
from litmus.errors import BadInput
from litmus.generation import generate
from litmus.interop import export_model, import_run
from litmus.interop.hf.tokenizer_files import write_tokenizer
from litmus.model import Decoder, build
from litmus.training import TrainSettings
from litmus.training.evaluation import evaluate_run
from litmus.training.run.loading import data_to_continue, load_run
from litmus.training.trainer import train_run

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
    score = evaluate_run(tmp_path / "runs" / "mine", data=corpus, device="cpu", precision="fp32")
    assert score.tokens > 100 and score.nats_per_token > 0
    run = load_run(tmp_path / "runs" / "mine")
    assert len(generate(run.model, ["The"], tokenizer=run.tokenizer, max_new_tokens=5)) == 1


@pytest.mark.parametrize("recipe", ["standard", "deepseek"])
def test_training_from_an_imported_run_begins_at_its_weights_in_its_tokens(
    recipe: str, corpus: str, rough: Callable[..., Decoder], tmp_path: Path
) -> None:
    tokenizer = BytePairTokenizer("bpe-260", ["Ġ t", "h e", "Ġt he"])
    model = rough(build(recipe, vocab_size=264, dim=32, depth=2, heads=4, context=32), torch.float32)  # rows to spare
    export_model(model, tokenizer, tmp_path / "hf")
    import_run(tmp_path / "hf", tmp_path / "mine")
    start = load_run(tmp_path / "mine")
    before = evaluate_run(tmp_path / "mine", data=corpus, device="cpu", precision="fp32")
    settings = data_to_continue(start, DataSettings(corpus=corpus))
    result = train_run(start.model.recipe, settings, SETTINGS, tmp_path / "tuned", start=start)
    tuned = load_run(tmp_path / "tuned")
    assert (tuned.step, tuned.tokenizer.pieces) == (3, tokenizer.pieces)
    assert tuned.config.start is not None and tuned.config.start.run == str(tmp_path / "mine")
    assert result.evaluation.tokens == before.tokens and result.evaluation.nats_per_token < before.nats_per_token
    original = load_run(tmp_path / "mine").model
    moved = max(
        (a - b).abs().max().item() for a, b in zip(tuned.model.parameters(), original.parameters(), strict=True)
    )
    assert 0 < moved < 0.01  # three small steps from the imported weights, not a new start
    shutil.rmtree(tmp_path / "mine")
    assert evaluate_run(tmp_path / "tuned", device="cpu", precision="fp32").tokens == result.evaluation.tokens


def test_a_run_goes_on_in_its_own_corpus_and_an_imported_one_has_none(
    folder: Path, corpus: str, tmp_path: Path
) -> None:
    import_run(folder, tmp_path / "mine")
    start = load_run(tmp_path / "mine")
    with pytest.raises(BadInput, match="has no corpus of its own; name one"):
        data_to_continue(start, None)
    split = DataSettings(corpus=corpus, held_out=0.3, sample_bytes=5000)
    train_run(start.model.recipe, data_to_continue(start, split), SETTINGS, tmp_path / "tuned", start=start)
    again = data_to_continue(load_run(tmp_path / "tuned"), None)
    assert again == split.model_copy(update={"tokenizer": str(tmp_path / "tuned")})


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(corpus: str, tmp_path: Path) -> None:
    export_model(build("standard", vocab_size=100, dim=32, depth=1, heads=4), ByteTokenizer(), tmp_path / "hf")
    import_run(tmp_path / "hf", tmp_path / "mine")
    start = load_run(tmp_path / "mine")
    with pytest.raises(BadInput, match="has 257 tokens and the model takes 100"):
        train_run(
            start.model.recipe,
            data_to_continue(start, DataSettings(corpus=corpus)),
            SETTINGS,
            tmp_path / "tuned",
            start=start,
        )


def test_an_imported_run_is_not_taken_for_one_that_never_began(folder: Path, corpus: str, tmp_path: Path) -> None:
    import_run(folder, tmp_path / "runs" / "mine")
    settings = DataSettings(corpus=corpus, tokenizer="bytes")
    with pytest.raises(BadInput, match="belongs to a run"):
        train_run("standard", settings, SETTINGS, tmp_path / "runs" / "mine")
    assert load_run(tmp_path / "runs" / "mine").step == 0


def test_a_folder_without_tokenizer_takes_bytes_and_says_so(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    said: list[str] = []
    import_run(folder, tmp_path / "runs" / "mine", log=said.append)
    assert "no tokenizer.json" in said[0]
    assert load_run(tmp_path / "runs" / "mine").tokenizer.name == "bytes"


@pytest.mark.parametrize(
    "tokenizer",
    [ByteTokenizer(), BytePairTokenizer("bpe-257", []), BytePairTokenizer("bpe-260", ["Ġ t", "h e", "Ġt he"])],
)
def test_tokenizers_come_back_as_what_they_were(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert write_tokenizer(tokenizer, tmp_path, 64) == {
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
    }
    back = load_tokenizer(tmp_path)
    assert (back.pieces, back.eos_id) == (tokenizer.pieces, tokenizer.eos_id)
    assert back.encode("the cat <|endoftext|>\n  the") == tokenizer.encode("the cat <|endoftext|>\n  the")
    (tmp_path / "again").mkdir()
    write_tokenizer(back, tmp_path / "again", 64)
    assert json.loads((tmp_path / "again" / "tokenizer.json").read_text()) == back.file  # type: ignore[attr-defined]


def test_a_tokenizer_of_another_form_is_refused_unless_bytes_are_asked_for(folder: Path, tmp_path: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": {"type": "Unigram", "vocab": []}}))
    with pytest.raises(BadInput, match="--bytes"):
        import_run(folder, tmp_path / "runs" / "mine")
    import_run(folder, tmp_path / "runs" / "mine", use_bytes=True)
