"""`litmus superweights`, on a run and on a folder of Hugging Face, and its refusals."""

from __future__ import annotations

import json
import shutil

import pytest

from litmus.cli import main
from litmus.interop import export_run


def test_a_run_and_its_export_have_the_same_search(run, tmp_path, capsys):
    arguments = ["--blocks", "4", "--length", "16", "--controls", "1", "--json"]
    with pytest.raises(SystemExit, match="0"):
        main(["superweights", str(run), *arguments, "--out", str(tmp_path / "report")])
    own = json.loads(capsys.readouterr().out)
    assert own["checkpoints"][0]["verdict"].startswith("none found")
    assert "report.md" in {path.name for path in (tmp_path / "report").iterdir()}
    assert json.loads((tmp_path / "report" / "superweights.json").read_text())["study"]["counts"]["largest"]["100"]
    export_run(run, tmp_path / "hf")
    corpus = str(run.parent / "corpus.txt")
    with pytest.raises(SystemExit, match="0"):
        main(["superweights", str(tmp_path / "hf"), *arguments, "--data", corpus])
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["candidates"] == own["checkpoints"][0]["candidates"]


def test_every_checkpoint_is_tracked(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["superweights", str(run), "--blocks", "2", "--length", "8", "--controls", "1", "--json", "--track"])
    steps = [one["step"] for one in json.loads(capsys.readouterr().out)["checkpoints"]]
    assert steps == sorted(int(path.name) for path in (run / "checkpoints").iterdir()) and len(steps) > 1


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
