import pytest
import torch
import yaml

from litmus.errors import BadInput
from litmus.model import load
from litmus.training import trainer
from litmus.training.run.config import read_config
from litmus.training.run.loading import load_run


def test_run_yaml_holds_all_that_is_needed_to_repeat_the_run(quick, data, tmp_path):
    quick(seed=7)
    written = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert written["recipe"] == yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["recipe"]["dropout"] == 0.1
    assert written["data_fingerprint"] == data.fingerprint
    assert written["data_provenance"]["tokens"] == data.provenance["tokens"]
    assert written["training"]["seed"] == 7
    assert written["resolved"] == {"device": "cpu", "precision": "fp32", "threads": 1, "context": 16}
    assert written["versions"]["torch"] == torch.__version__
    assert written["hardware"]["cores"] >= 1
    assert written["command"]
    assert written["started"]


def test_what_was_left_open_is_written_down_as_it_was_decided(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    quick(precision="auto", context=None, threads=None)
    resolved = read_config(tmp_path / "run").resolved
    assert (resolved.precision, resolved.context, resolved.threads) == ("fp32", 32, torch.get_num_threads())


def test_a_run_resumed_on_a_machine_that_would_choose_otherwise_keeps_its_precision(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    quick(precision="auto")
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert quick(precision="auto").precision == "fp32"


def test_a_loaded_run_has_its_model_in_fp32_and_its_own_tokenizer(quick, tmp_path):
    quick(precision="bf16")
    run = load_run(tmp_path / "run")
    assert run.step == 20
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert run.tokenizer.decode(run.tokenizer.encode("the cat")) == "the cat"
    assert run.config.training.precision == "bf16"


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(quick, tmp_path, monkeypatch):
    plain, losses = trainer.evaluate, iter([4.0, 2.0, 3.0, 3.5, 3.5])

    def scored(*arguments, **options):
        return plain(*arguments, **options).model_copy(update={"nats_per_token": next(losses)})

    monkeypatch.setattr(trainer, "evaluate", scored)
    quick(validate_every=5, keep_last=1)
    assert load_run(tmp_path / "run", best=True).step == 10
    assert load_run(tmp_path / "run").step == 20
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == [10, 20]


def test_a_damaged_newest_checkpoint_is_passed_over_when_loading_too(quick, tmp_path):
    quick()
    (tmp_path / "run" / "checkpoints" / "20" / "model.safetensors").write_bytes(b"")
    said = []
    assert load_run(tmp_path / "run", log=said.append).step == 15
    assert "checkpoint 20 is damaged" in said[0]
    assert (tmp_path / "run" / "checkpoints" / "20").exists()


def test_a_checkpoint_can_be_loaded_as_a_model(quick, tmp_path):
    quick()
    model = load(tmp_path / "run" / "checkpoints" / "20")
    ours = load_run(tmp_path / "run").model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), ours.parameters(), strict=True))


def test_folders_that_are_no_runs_are_named_as_such(quick, tmp_path):
    with pytest.raises(BadInput, match=r"is not a run folder: it has no run\.yaml"):
        load_run(tmp_path / "nothing")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("keep me")
    with pytest.raises(BadInput, match="is not a run folder"):
        quick("letters")
    assert (tmp_path / "letters" / "mine.txt").read_text() == "keep me"
    with pytest.raises(BadInput, match="is a file"):
        quick("letters/mine.txt")


def test_a_damaged_run_yaml_is_bad_input(quick, tmp_path):
    quick()
    (tmp_path / "run" / "run.yaml").write_text("recipe: [")
    with pytest.raises(BadInput, match=r"run\.yaml cannot be read"):
        quick()
