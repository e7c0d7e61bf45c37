"""Runs of version 0.1.0, whose files have other keys, are read, scored, resumed and extended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from litmus.files import MANIFEST, checksum
from litmus.training.evaluation import evaluate_run
from litmus.training.run.checkpoints import State, best_checkpoint, newest_checkpoint
from litmus.training.run.loading import load_run
from litmus.training.run.metrics import read_metrics
from litmus.training.run.result import CurvePoint, RunResult, curve, read_result


def rewrite(path: Path, change: Any) -> None:
    """Rewrite a JSON file in the keys of version 0.1.0, and the checksum of it in the manifest next to it."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    manifest = path.parent / MANIFEST
    if manifest.exists():
        sums = json.loads(manifest.read_text())
        sums["files"][path.name] = checksum(path).model_dump()
        manifest.write_text(json.dumps(sums))


def older_state(state: dict[str, Any]) -> None:
    state["spent"], state["held_out_loss"] = state.pop("usage"), state.pop("val_loss")


def older_result(result: dict[str, Any]) -> None:
    result["evaluation"]["layer_figures"] = result["evaluation"].pop("layer_stats")
    for point in result["curve"]:
        point["held_out_loss"], point["held_out_bpb"] = point.pop("val_loss"), point.pop("val_bpb")


def make_older(run: Path) -> None:
    """Rewrite a run folder as version 0.1.0 would have written it."""
    for path in (run / "checkpoints").glob("*/state.json"):
        rewrite(path, older_state)
    if (run / "result.json").exists():
        rewrite(run / "result.json", older_result)
    config = yaml.safe_load((run / "run.yaml").read_text())
    del config["recipe"]["embedding"], config["recipe"]["head"]["kind"]
    (run / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"kind": "val"', '"kind": "held_out"'))


@pytest.fixture
def older(quick, tmp_path):
    """A run of 20 steps in the form of version 0.1.0, and its result."""
    result = quick(keep_last=3)
    make_older(tmp_path / "run")
    assert "held_out" in (tmp_path / "run" / "metrics.jsonl").read_text()
    return tmp_path / "run", result


@pytest.mark.parametrize("key", ["spent", "held_out_loss"])
def test_an_older_state_is_read(older, key):
    run, _ = older
    path = newest_checkpoint(run / "checkpoints", print).folder / "state.json"
    assert key in json.loads(path.read_text())
    state = State.model_validate_json(path.read_text())
    assert state.usage.steps == 20 and state.val_loss is not None
    assert not {"spent", "held_out_loss"} & json.loads(state.model_dump_json()).keys()


@pytest.mark.parametrize(("old", "new"), [("held_out_loss", "val_loss"), ("held_out_bpb", "val_bpb")])
def test_an_older_point_of_a_curve_is_read(old, new):
    values = {"step": 1, "tokens": 2, "seconds": 3.0, "train_loss": 1.0, "val_loss": 2.0, "val_bpb": 3.0}
    point = CurvePoint(**values)
    older = {old if key == new else key: value for key, value in values.items()}
    assert CurvePoint.model_validate(older) == point and new in point.model_dump() and old not in point.model_dump()


def test_an_older_result_with_its_layer_figures_is_read(older):
    run, result = older
    assert "layer_figures" in json.loads((run / "result.json").read_text())["evaluation"]
    assert result.evaluation.layer_stats and read_result(run) == result
    assert RunResult.model_validate_json(result.model_dump_json()) == result


def test_the_validations_in_an_older_metrics_file_are_read(older):
    run, result = older
    assert [event["kind"] for event in read_metrics(run / "metrics.jsonl")].count("val") == 4
    assert curve(run / "metrics.jsonl") == result.curve


def test_the_best_checkpoint_of_an_older_run_is_found(older):
    run, _ = older
    checkpoint = best_checkpoint(run / "checkpoints")
    assert checkpoint is not None and checkpoint.state.val_loss is not None


def test_an_older_run_is_loaded_and_scored_as_before(older):
    run, result = older
    assert load_run(run).step == 20
    assert evaluate_run(run, limit_tokens=256) == result.evaluation


def test_an_older_run_is_extended_to_the_result_of_an_uninterrupted_one(older, quick, events, tmp_path):
    constant = {"schedule": "constant", "warmup": 0.0}
    quick("short", **constant)
    make_older(tmp_path / "short")
    extended = quick("short", budget="30 steps", **constant)
    whole = quick("whole", budget="30 steps", **constant)
    assert extended.evaluation == whole.evaluation
    assert [(point.step, point.val_loss) for point in extended.curve] == [
        (point.step, point.val_loss) for point in whole.curve
    ]
