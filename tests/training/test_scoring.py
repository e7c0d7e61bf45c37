import pytest

from litmus.errors import BadInput
from litmus.training.evaluation import evaluate_run


@pytest.mark.parametrize("precision", ["fp32", "bf16-autocast", "bf16"])
def test_scoring_a_run_again_gives_the_score_of_its_training(precision, quick, tmp_path):
    result = quick(precision=precision)
    assert evaluate_run(tmp_path / "run", limit_tokens=256) == result.evaluation


def test_scoring_takes_all_held_out_text_unless_told_otherwise(quick, data, tmp_path):
    quick()
    assert evaluate_run(tmp_path / "run").bytes == data.provenance["bytes"]["held_out"]
    assert evaluate_run(tmp_path / "run", limit_bytes=100).bytes == 100
    assert len(evaluate_run(tmp_path / "run", context=8).loss_by_position) == 8


def test_another_corpus_is_scored_with_the_tokenizer_of_the_run(recipe, tmp_path, corpus):
    from litmus.data import DataSettings, prepare
    from litmus.training import TrainSettings
    from litmus.training.trainer import train_run

    other = tmp_path / "other.txt"
    other.write_text("a bird sat on the old dogs while the garden ran.\n" * 100)
    settings = TrainSettings(budget="3 steps", batch=4, context=16, precision="fp32", evaluate_tokens=64)
    data_settings = DataSettings(corpus=corpus, tokenizer="bpe-300")
    train_run(recipe, data_settings, settings, tmp_path / "run")
    score = evaluate_run(tmp_path / "run", data=str(other))
    assert score.bytes == 0.1 * len(other.read_text())
    held_out = other.read_text()[-score.bytes :]
    assert score.tokens == len(prepare(data_settings).tokenizer.encode(held_out)) + 1  # and the end of the document


def test_a_corpus_that_changed_since_the_training_is_pointed_out(recipe, tmp_path):
    from litmus.data import DataSettings
    from litmus.training import TrainSettings
    from litmus.training.trainer import train_run

    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat\n" * 200)
    settings = TrainSettings(budget="2 steps", batch=4, context=16, precision="fp32")
    train_run(recipe, DataSettings(corpus=str(text), tokenizer="bytes"), settings, tmp_path / "run")
    said = []
    evaluate_run(tmp_path / "run", log=said.append)
    assert said == []
    text.write_text("the dog sat on a mat\n" * 200)
    evaluate_run(tmp_path / "run", log=said.append)
    assert any("has changed since" in sentence for sentence in said)


def test_a_folder_without_a_checkpoint_cannot_be_scored(quick, tmp_path):
    quick(budget="1 step")
    import shutil

    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(BadInput, match="has no checkpoint yet"):
        evaluate_run(tmp_path / "run")
