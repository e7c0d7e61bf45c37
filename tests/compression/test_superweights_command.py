"""`litmus superweights`, on a run and on a folder of Hugging Face, and its refusals."""

from __future__ import annotations

import json
import shutil

import pytest

from litmus.cli import main
from litmus.compression.output import write_compressed
from litmus.compression.planting import plant_super_weight
from litmus.compression.source import load_source
from litmus.interop import export_run
from litmus.model import build
from litmus.model.storage import weights
from litmus.training.budget import Usage
from litmus.training.run.checkpoints import State, save_checkpoint
from litmus.training.run.config import Compression


def test_a_run_and_its_export_have_the_same_search(run, tmp_path, capsys):
    arguments = ["--blocks", "4", "--length", "16", "--controls", "1", "--json"]
    with pytest.raises(SystemExit, match="0"):
        main(["superweights", str(run), *arguments, "--out", str(tmp_path / "report")])
    own = json.loads(capsys.readouterr().out)
    assert own["checkpoints"][0]["verdict"].startswith("none found")
    assert ">super weights<" not in (tmp_path / "report" / "zeroed.svg").read_text()
    assert "report.md" in {path.name for path in (tmp_path / "report").iterdir()}
    assert json.loads((tmp_path / "report" / "superweights.json").read_text())["study"]["counts"]["largest"]["100"]
    export_run(run, tmp_path / "hf")
    corpus = str(run.parent / "corpus.txt")
    with pytest.raises(SystemExit, match="0"):
        main(["superweights", str(tmp_path / "hf"), *arguments, "--data", corpus])
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["candidates"] == own["checkpoints"][0]["candidates"]


def test_every_checkpoint_is_tracked_and_the_last_one_studied(run, tmp_path, batch, capsys):
    """With a super weight in the last checkpoint, the figures over the steps show when it appeared."""
    source, folder = load_source(run), tmp_path / "run"
    planted, plant = plant_super_weight(source.model, batch.tokens, row=7, column=11, quantile=0.5)
    untrained = build(planted.recipe, seed=1)
    write_compressed(
        source, folder, planted.recipe, weights(untrained), Compression(method="prune", options={}, share=0.0)
    )
    later = State(usage=Usage(steps=5), peak_memory_bytes=0)
    save_checkpoint(folder / "checkpoints", planted.recipe, weights(planted), {}, later)
    arguments = ["--blocks", "4", "--length", "16", "--controls", "1", "--track", "--out", str(tmp_path / "report")]
    with pytest.raises(SystemExit, match="0"):
        main(["superweights", str(folder), *arguments])
    assert capsys.readouterr().out.startswith("1 super weight found\n")
    found = json.loads((tmp_path / "report" / "superweights.json").read_text())
    verdicts = {one["step"]: one["verdict"] for one in found["checkpoints"]}
    assert list(verdicts) == [0, 5] and verdicts[5] == found["verdict"] == "1 super weight found"
    assert found["candidates"][0]["parameter"] == plant.parameter
    assert verdicts[0].startswith("none found")
    assert found["study"]["scales"]["0.0"]["mean"] == pytest.approx(
        found["candidates"][0]["loss_increase"]["mean"], abs=1e-3
    )
    figures = {path.stem: path.read_text() for path in (tmp_path / "report").glob("*.svg")}
    assert figures.keys() == {"activations", "tokens", "zeroed", "scale", "spike_by_step", "cost_by_step"}
    assert ">super weights<" in figures["scale"] and ">super weights<" in figures["zeroed"]


def test_bad_input_is_one_sentence(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    export_run(run, tmp_path / "hf")
    (tmp_path / "file").write_text("", encoding="utf-8")
    cases = {
        (str(run), "--out", str(tmp_path / "file")): "file",
        (str(run), "--out", ""): ". is no super-weight report that Litmus wrote",
        (str(run), "--blocks", "4096", "--length", "64"): "blocks of 32 tokens",
        ("no-such-folder",): "no-such-folder is not there; a model folder is expected",
        (str(tmp_path),): "is not a run folder",
        (str(tmp_path / "hf"),): "was imported and has no text of its own; name one, e.g. --data stdlib",
        (str(tmp_path / "run"), "--data", str(tmp_path / "nothing.txt")): "nothing.txt",
    }
    for words, sentence in cases.items():
        with pytest.raises(SystemExit, match="2"):
            main(["superweights", *words])
        shown = capsys.readouterr().err.strip().splitlines()[-1]
        assert shown.startswith("litmus: ") and sentence in shown
