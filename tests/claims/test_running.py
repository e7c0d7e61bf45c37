"""A small claim from its protocol to its record, its report, and what is not done again."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from rich.console import Console

from litmus.claims.experiments import Lab
from litmus.claims.protocol import Claim, TrialFigure, claim_from
from litmus.claims.record import Figure, Record, read_record
from litmus.claims.report import anchor, load_records, page_text, summary_table, what_it_takes, write_report
from litmus.claims.running import run_claim, run_claims
from litmus.claims.trial_figures import trial_figure
from litmus.cli import main
from litmus.comparison.compare import Comparison
from litmus.comparison.results import ComparisonResult
from litmus.errors import BadInput

SMALL = {"dim": 16, "depth": 1, "heads": 2}
ARMS = ["standard", "nope"]
RAW = {
    "number": 1, "name": "micro", "title": "Less is more", "claim": "No positions are better.", "source": "nobody",
    "published": "better", "published_protocol": "", "hypothesis": "It is not.", "limits": "Everything.",
    "experiments": [
        {"kind": "compare", "name": "loss", "arms": ARMS, "figures": {
            "loss": {"arm": "nope", "against": "standard", "metric": "bpb"},
            "speed": {"arm": "nope", "against": "standard", "metric": "tokens_per_second", "ratio": True},
            "cache": {"arm": "nope", "against": "standard", "metric": "cache_bytes", "ratio": True},
            "sink": {"arm": "nope", "metric": "first_token_attention"},
        }},
        {"kind": "compare", "name": "again", "arms": ARMS, "training": {"lr": 0.02}, "figures": {
            "again": {"arm": "nope", "against": "standard", "metric": "bpb"},
        }},
        {"kind": "derived", "name": "change", "figures": {"change": {"figure": "again", "minus": "loss"}}},
        {"kind": "check", "name": "theorem", "check": "order_blindness", "figures": {"blind": "one_layer"}},
    ],
    "criteria": [
        {"figure": "cache", "confirmed": [1, 1], "refuted": [1.1, None], "says": "The cache is the same."},
        {"figure": "loss", "confirmed": [None, -100], "refuted": [-100, None], "says": "It is far better."},
        {"figure": "blind", "confirmed": [None, 1e-9], "refuted": [1e-9, None], "says": "One layer is blind."},
    ],
}  # fmt: skip
TRAINING = {
    "budget": "2 steps", "batch": 4, "context": 16, "lr": 0.01, "precision": "fp32", "threads": 1,
    "validate_tokens": 64, "evaluate_tokens": 256, "checkpoint_every": 0, "checkpoint_minutes": 0.5,
}  # fmt: skip


def protocol(folder: Path, **changes: object) -> Claim:
    data = {"corpus": str(folder / "notes.txt"), "tokenizer": "bytes"}
    terms = {"data": data, "size": None, "overrides": SMALL, "seeds": 2, "lr_sweep": False, "training": TRAINING}
    return claim_from({**RAW, **changes}, {"cpu": {"compare": terms}}, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small text in it."""
    draw = random.Random(0)
    folder = tmp_path_factory.mktemp("claims")
    words = ("the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "after", "one", "small", "bird")
    (folder / "notes.txt").write_text("".join(" ".join(draw.choices(words, k=7)) + ".\n" for _ in range(400)))
    return folder


@pytest.fixture(scope="module")
def lab(folder: Path) -> Lab:
    return Lab(folder / "runs", Console(quiet=True), "a test", jobs=2)


@pytest.fixture(scope="module")
def record(folder: Path, lab: Lab) -> Record:
    """The record of the small claim."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITMUS_CACHE", str(folder / "cache"))
        return run_claim(protocol(folder), folder / "records", lab)


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_CACHE", str(folder / "cache"))


def comparison(record: Record, folder: Path, number: int = 0) -> Comparison:
    place = folder / "runs" / record.folders[number]
    return Comparison(ComparisonResult.load(place / "comparison.json"), place)


def test_the_figures_are_those_of_the_comparison(record: Record, folder: Path) -> None:
    result = comparison(record, folder).result
    base, arm = (result.trials_of(name) for name in ARMS)
    loss = record.figures["loss"]
    assert loss.value == pytest.approx(fmean(b.bits_per_byte - a.bits_per_byte for a, b in zip(base, arm, strict=True)))
    [verdict] = comparison(record, folder).verdicts
    assert verdict.difference is not None
    assert (loss.low, loss.high) == (verdict.difference.low, verdict.difference.high)
    assert (record.figures["cache"].low, record.figures["cache"].high) == (1, 1)
    speeds = [b.run.tokens_per_second / a.run.tokens_per_second for a, b in zip(base, arm, strict=True)]
    assert record.figures["speed"].value == pytest.approx((speeds[0] * speeds[1]) ** 0.5)
    sink = [fmean(trial.evaluation.layer_stats["first_token_attention"].values()) for trial in arm]
    assert record.figures["sink"].value == pytest.approx(fmean(sink))
    change = {seed: record.figures["again"].values[seed] - loss.values[seed] for seed in ("0", "1")}
    assert record.figures["change"].values == pytest.approx(change)


def test_the_verdict_follows_from_the_conditions(record: Record) -> None:
    assert [condition.word for condition in record.conditions] == ["confirmed", "refuted", "confirmed"]
    assert record.verdict == "refuted"


def test_a_claim_with_a_record_of_its_protocol_is_not_run_again(record: Record, folder: Path, lab: Lab) -> None:
    path = folder / "records" / "micro.json"
    before = path.stat().st_mtime_ns
    assert run_claim(protocol(folder), folder / "records", lab) == record == read_record(path)
    assert path.stat().st_mtime_ns == before


def test_a_claim_without_its_record_is_continued_from_the_trials_that_it_has(
    record: Record, folder: Path, lab: Lab, tmp_path: Path
) -> None:
    outcomes = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("outcome.json")}
    assert len(outcomes) == 8
    again = run_claim(protocol(folder), tmp_path, lab)
    assert again.figures == record.figures
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("outcome.json")} == outcomes
    other = protocol(folder, criteria=RAW["criteria"][:1])
    assert run_claim(other, tmp_path, lab).verdict == "confirmed"
    kept = read_record(tmp_path / "micro.json")
    assert kept is not None and kept.sha256 == other.sha256 != record.sha256


def test_an_arm_with_a_failed_trial_has_no_figure(record: Record, folder: Path) -> None:
    whole = comparison(record, folder)
    trials = [
        trial.model_copy(update={"failed": "diverged at step 1"}) if trial.arm == "nope" and trial.seed == 1 else trial
        for trial in whole.result.trials
    ]
    broken = replace(whole, result=whole.result.model_copy(update={"trials": trials}))
    figures = record.claim.experiments[0].figures
    found = trial_figure(broken, figures["loss"])  # type: ignore[arg-type]
    assert found.value is None and found.note == "1 of 2 trials of nope failed: diverged at step 1"


def test_figures_of_probes_and_of_sparse_losses(record: Record, folder: Path) -> None:
    """Accuracy at one length, and the loss where one token in four is trained against that of all tokens."""
    whole = comparison(record, folder)
    trials = []
    for trial in whole.result.trials:
        share = 1.0 if trial.arm == "standard" else 0.25
        score = trial.evaluation.model_copy(
            update={
                "accuracy_by_length": {16: 0.9, 64: share},
                "loss_by_position": [4.0, 4.0, 4.0, 1.0 + trial.seed] * 4,
            }
        )
        run = trial.run.model_copy(update={"evaluation": score, "scored_share": share})
        trials.append(trial.model_copy(update={"run": run}))
    changed = replace(whole, result=whole.result.model_copy(update={"trials": trials}))
    pair = {"arm": "nope", "against": "standard"}
    found = trial_figure(changed, TrialFigure(**pair, metric="accuracy", length=64))
    assert (found.value, found.low, found.high, found.unit) == (-75, -75, -75, "% right")
    sparse = trial_figure(changed, TrialFigure(**pair, metric="nats_where_trained", against_metric="nats"))
    dense = [trial.evaluation.nats_per_token for trial in trials if trial.arm == "standard"]
    assert sparse.values == {"0": 1.0 - dense[0], "1": 2.0 - dense[1]}
    with pytest.raises(BadInput, match="no test example has 32 tokens; valid: 16, 64"):
        trial_figure(changed, TrialFigure(**pair, metric="accuracy", length=32))


def test_a_claim_that_cannot_be_run_does_not_keep_others_from_it(folder: Path, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "mla.json").write_text("{}")
    (tmp_path / "mtp.json").write_text("{}")
    records, failures = run_claims(["mla", "mtp"], "cpu", tmp_path, lab)
    assert not records and list(failures) == ["mla", "mtp"]
    assert "is not the record of a claim" in failures["mla"]
    with pytest.raises(BadInput, match=r"mtp\.json is not the record of a claim"):
        run_claims(["mtp"], "cpu", tmp_path, lab)


def test_the_page_has_each_figure_with_its_interval_and_the_picture(record: Record, tmp_path: Path) -> None:
    write_report([record], tmp_path / "docs" / "claims.md", tmp_path / "results")
    text = (tmp_path / "docs" / "claims.md").read_text(encoding="utf-8")
    assert text == page_text([record], "../results")
    assert "| It is far better. | nope − standard, bits per byte |" in text and "| **refuted** |" in text
    assert (
        "**refuted** (2 of 3 conditions confirmed)" in text
        and "Of 1: 1 refuted." in text
        and f"](#{anchor(record)})" in summary_table([record])
    )
    drawn = (tmp_path / "results" / "micro.svg").read_text(encoding="utf-8")
    assert drawn.count("confirmed") >= 3 and "prefers-color-scheme: dark" in drawn


def test_what_would_decide_an_inconclusive_condition_is_a_number_of_seeds(record: Record) -> None:
    criterion = {"figure": "loss", "confirmed": [None, 0], "refuted": [0, None], "says": "It is better."}
    claim = record.claim.model_copy(update={"criteria": [*protocol_criteria(criterion)]})

    def takes(value: float, half: float, count: int = 5) -> str:
        figure = Figure(label="a", unit="bpb", value=value, low=value - half, high=value + half, count=count)
        changed = record.model_copy(update={"claim": claim, "figures": {**record.figures, "loss": figure}})
        return what_it_takes(changed.conditions[0])

    assert takes(0.2, 0.1) == ""
    few, many = (int(takes(value, 0.01).split("n = ")[-1].rstrip(".")) for value in (0.009, 0.002))
    assert 5 < few < 20 < many < 300
    assert takes(0.0, 0.01).endswith("an n above 1000.")


def protocol_criteria(*criteria: dict[str, object]) -> list[object]:
    return list(Claim.model_fields["criteria"].annotation.__args__[0].model_validate(one) for one in criteria)  # type: ignore[union-attr]


def test_the_commands_list_and_report_what_was_run(
    record: Record, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = record.model_copy(update={"claim": record.claim.model_copy(update={"name": "mla"})})
    named.save(tmp_path)
    for arguments in (["list", "--results", str(tmp_path), "--json"], ["report", "--results", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main(["claims", *arguments])
        assert not ended.value.code
    out = capsys.readouterr().out
    listed = json.loads(out[: out.rindex("}") + 1])["claims"]
    assert {claim["name"]: claim["verdicts"] for claim in listed if claim["verdicts"]} == {"mla": {"cpu": "refuted"}}
    assert (tmp_path / "claims.md").is_file() and load_records(tmp_path) == [named]
