"""`litmus quantize`, `litmus prune` and `litmus runs compare` as a user types them, and what the runs are good for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import litmus
from litmus.cli import main
from litmus.files import file_names, sha256
from litmus.interop import export_run
from litmus.runs import evaluate
from litmus.training.run.config import read_config
from litmus.training.run.loading import load_run


@pytest.fixture
def call(capsys, tmp_path):
    """call(...) is the JSON that a command prints; runs are made in a folder of the test."""

    def typed(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--json", "--runs", str(tmp_path / "runs")])
        assert not ended.value.code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return typed


def content(folder):
    return {name: sha256((Path(folder) / name).read_bytes()) for name in file_names(folder)}


def test_a_quantized_run_is_smaller_and_used_like_any_other(run, call, tmp_path):
    before = content(run)
    options = ("--bits", "4", "--group", "16", "--limit-tokens", "256", "--activations", "8", "--time")
    shown = call("quantize", run, *options)
    assert content(run) == before
    folder = Path(shown["run"])
    assert folder == tmp_path / "runs" / "toy-int4"
    assert shown["bytes"][1] < 0.35 * shown["bytes"][0]
    assert shown["share"] > 0.95 and set(shown["activations"]) == {"plain", "protected"}
    config = read_config(folder)
    assert config.start.run == str(run) and config.compression[0].method == "int4"
    loaded = load_run(folder)
    tokens = torch.randint(200, (2, 16))
    assert litmus.generate(loaded.model, tokens, max_new_tokens=4)
    assert evaluate(folder, limit_tokens=256).bits_per_byte == pytest.approx(shown["bits_per_byte"][1], rel=1e-4)
    export_run(folder, tmp_path / "hf")
    again = call("quantize", folder, "--bits", "8", "--group", "channel", "--name", "twice")
    assert [one.method for one in read_config(Path(again["run"])).compression] == ["int4", "int8"]


def test_runs_are_compared_over_the_same_windows(run, call, capsys):
    shown = call("quantize", run, "--bits", "3", "--limit-tokens", "512")
    compared = call("runs", "compare", run, shown["run"], "--limit-tokens", "512")
    first, second = compared["runs"]
    assert first["difference"] is None
    assert second["difference"]["mean"] == pytest.approx(shown["difference"]["mean"], rel=1e-6)
    assert second["difference"]["low"] < second["difference"]["mean"] < second["difference"]["high"]
    mean = second["bits_per_byte"]["mean"] - first["bits_per_byte"]["mean"]
    assert second["difference"]["mean"] == pytest.approx(mean)
    listed = call("runs", "list")
    assert [one["status"] for one in listed] == ["compressed"]
    with pytest.raises(SystemExit, match="0"):
        main(["runs", "show", shown["run"]])
    assert "int3 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "smaller"),
    [
        (("--sparsity", "0.5", "--recover", "3", "--lr", "0.001"), False),
        (("--structured", "2:4", "--method", "magnitude", "--protect-super"), False),
        (("--sparsity", "0.5", "--structured", "heads"), True),
        (("--sparsity", "0.5", "--structured", "layers"), True),
    ],
)
def test_a_pruned_run_is_another_run(run, call, options, smaller):
    before = content(run)
    shown = call("prune", run, *options, "--limit-tokens", "256")
    assert content(run) == before
    loaded = load_run(Path(shown["run"]))
    assert (shown["bytes"][1] < 0.95 * shown["bytes"][0]) == smaller
    zeros = sum(int((parameter == 0).sum()) for parameter in loaded.model.parameters())
    total = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert smaller or zeros / total == pytest.approx(shown["share"], abs=0.01)
    assert any("zeros take as many bytes" in note for note in shown["notes"]) != smaller
    assert evaluate(shown["run"], limit_tokens=256).bits_per_byte == pytest.approx(shown["bits_per_byte"][1], rel=1e-4)


def test_dynamic_pruning_makes_no_run(run, call, tmp_path):
    shown = call("prune", run, "--dynamic", "--sparsity", "0.5", "--limit-tokens", "256")
    assert shown["run"] is None and not (tmp_path / "runs").exists()
    assert shown["difference"]["mean"] != 0


def test_bad_input_is_one_sentence(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_run(run, "hf")
    cases = {
        ("quantize", "nowhere"): "nowhere is not there; a run folder is expected",
        ("quantize", "hf"): "make a run of this model with: litmus import hf",
        ("quantize", run, "--bits", "5"): "--bits = 5 is not supported; 8, 4 and 3 are",
        ("quantize", run, "--group", "24"): "--group = 24 does not divide the width 32 of embedding.weight",
        ("quantize", run, "--group", "row"): "--group = 'row' is not valid",
        ("quantize", run, "--name", "a/b"): "a run's name",
        ("prune", run, "--sparsity", "1"): "--sparsity = 1 is not valid; it must be at least 0 and below 1",
        ("prune", run, "--structured", "experts"): "has no mixture of experts",
        ("prune", run, "--dynamic", "--recover", "5"): "--dynamic changes no weight",
        ("prune", run, "--structured", "heads", "--protect-super"): "--protect-super keeps single weights",
        ("runs", "compare", run, "--paired"): "name at least one more",
    }
    for words, sentence in cases.items():
        with pytest.raises(SystemExit, match="2"):
            main([*map(str, words)])
        shown = capsys.readouterr().err.strip().splitlines()[-1]
        assert shown.startswith("litmus: ") and sentence in shown
        assert not (tmp_path / "runs").exists()
