"""litmus.train and litmus.evaluate: an audited training in one call, and what can be done with the run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import litmus
from litmus import runs
from litmus.data import DataSettings
from litmus.errors import BadInput, Failed
from litmus.training.display import Display

TOY = {"base": "standard", "name": "toy", "dim": 16, "depth": 1, "heads": 2, "context": 32}
SETTINGS = {"budget": "4 steps", "batch": 2, "threads": 1, "device": "cpu", "evaluate_tokens": 256}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    draw = random.Random(0)
    lines = (" ".join(draw.choices(("the", "cat", "sat", "on", "a", "mat"), k=6)) + ".\n" for _ in range(400))
    (folder / "text.txt").write_text("".join(lines))
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LITMUS_CACHE", str(folder / "cache"))


@pytest.fixture(scope="module")
def data(folder: Path) -> DataSettings:
    return DataSettings(corpus=str(folder / "text.txt"), tokenizer="bytes")


@pytest.fixture(scope="module")
def run(folder: Path, data: DataSettings) -> litmus.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITMUS_CACHE", str(folder / "cache"))
        return litmus.train(TOY, data, folder=folder / "run", lr=0.01, **SETTINGS)


def test_a_run_has_its_folder_result_audit_model_and_tokenizer(run: litmus.Run, folder: Path) -> None:
    assert run.folder == folder / "run" and run.result.steps == 4 and run.audit.passed
    assert run.report == run.folder / "report.html"
    assert f"{run.evaluation.bits_per_byte:.4f}" in run.report.read_text(encoding="utf-8")
    assert run.evaluation == run.result.evaluation and run.evaluation.tokens == 256
    assert run.tokenizer.vocab_size == run.model.recipe.vocab_size == 257
    texts = litmus.generate(run.model, ["the "], tokenizer=run.tokenizer, max_new_tokens=4)
    assert len(texts) == 1
    state = litmus.load(run).state_dict()
    assert all(value.equal(state[name]) for name, value in run.model.state_dict().items())


def test_a_run_is_evaluated_by_itself_or_by_its_folder(run: litmus.Run) -> None:
    assert litmus.evaluate(run, limit_tokens=256) == run.evaluation
    assert litmus.evaluate(str(run.folder), limit_tokens=100).tokens == 100
    saved = runs.saved_audit(run)
    assert saved is not None and saved.passed


def test_the_same_call_returns_the_run_without_a_second_audit(
    run: litmus.Run, data: DataSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "audit", lambda *arguments, **options: pytest.fail("audited again"))
    again = litmus.train(TOY, data, folder=run.folder, lr=0.01, **SETTINGS)
    assert (again.folder, again.result, again.audit) == (run.folder, run.result, run.audit)


def test_a_run_is_trained_further_with_its_own_data_and_tokenizer(run: litmus.Run) -> None:
    tuned = litmus.train(run, lr=0.001, **SETTINGS)
    assert tuned.folder == Path("runs/run-tuned")
    config = runs.read_config(tuned.folder)
    assert config.start is not None and config.start.run == str(run.folder)
    assert config.data.tokenizer == str(run.folder)


@pytest.mark.parametrize(
    "change", [{"size": "tiny"}, {"overrides": {"dim": 8}}, {"data": DataSettings(tokenizer="bytes")}]
)
def test_size_recipe_and_tokenizer_of_a_run_cannot_be_changed(run: litmus.Run, change: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="is a run, whose weights fix its size, recipe and tokenizer"):
        litmus.train(run, **change, **SETTINGS)  # type: ignore[arg-type]


def test_an_unknown_setting_gets_the_nearest_name(data: DataSettings) -> None:
    with pytest.raises(BadInput, match="did you mean 'warmup'"):
        litmus.train(TOY, data, warm_up=0.1)


def test_a_model_that_fails_its_audit_is_trained_only_if_asked_for(
    run: litmus.Run, data: DataSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = run.audit.findings[0].model_copy(update={"status": "fail", "mark": "sees the future"})
    failed = run.audit.model_copy(update={"findings": [finding.model_copy(update={"name": "causality"})]})
    monkeypatch.setattr(runs, "audit", lambda *arguments, **options: failed)
    with pytest.raises(Failed, match="fails audit: sees the future"):
        litmus.train(TOY, data, name="leaky", **SETTINGS)
    logged: list[str] = []

    class Log(Display):
        def log(self, text: str) -> None:
            logged.append(text)

    kept = litmus.train(TOY, data, name="leaky", keep_failed=True, display=Log(), **SETTINGS)
    assert kept.folder == Path("runs/leaky") and not kept.audit.passed and "fails audit: sees the future" in logged


def test_a_plan_is_made_without_a_training(data: DataSettings) -> None:
    plan = runs.plan(TOY, data, budget="4 steps", batch=2)
    assert plan.steps == 4 and not Path("runs/toy").exists()
