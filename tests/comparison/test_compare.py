"""A comparison from the command to the verdict: terms, trials, stored files, and repeated calls."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml

import litmus
from litmus.cli import main
from litmus.comparison.compare import parse_seeds
from litmus.comparison.executors.local import run_trials
from litmus.comparison.plan import Plan, resolve_arms
from litmus.comparison.results import ComparisonResult
from litmus.comparison.sizes import compare_sizes
from litmus.comparison.trial import TrialSpec, stored_result
from litmus.data import DataSettings, prepare
from litmus.errors import BadInput, Failed
from litmus.training import TrainSettings
from litmus.training.run.loading import load_run

TRAINING = {
    "budget": "8 steps", "batch": 4, "context": 16, "lr": 0.01, "precision": "fp32", "threads": 1,
    "validate_tokens": 64, "evaluate_tokens": 256, "checkpoint_every": 0, "checkpoint_minutes": 0.5,
}  # fmt: skip
SMALL = {"dim": 16, "depth": 1, "heads": 2}
TIMING = {"train_seconds", "tokens_per_second", "peak_memory_bytes"}
LEAKY = Path(__file__).parents[2] / "specimens" / "f1_linformer_over_time.py"


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A folder with a small text in it."""
    draw = random.Random(0)
    folder = tmp_path_factory.mktemp("desk")
    words = ("the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "after", "one", "small", "bird")
    (folder / "notes.txt").write_text("".join(" ".join(draw.choices(words, k=7)) + ".\n" for _ in range(400)))
    return folder


@pytest.fixture(autouse=True)
def in_text_folder(text_folder, monkeypatch):
    monkeypatch.chdir(text_folder)
    monkeypatch.setenv("LITMUS_CACHE", str(text_folder / "cache"))


def compared(runs, arms=("standard", "nope"), **changes):
    """litmus.compare of small arms on the small text; `changes` are training settings or options of compare."""
    settings = {**TRAINING, **{key: value for key, value in changes.items() if key in TrainSettings.model_fields}}
    options = {key: value for key, value in changes.items() if key not in TrainSettings.model_fields}
    data = DataSettings(corpus=options.pop("text", "notes.txt"), tokenizer="bytes")
    terms = {"seeds": 2, "noise": True, "jobs": 2, "name": "x", "overrides": SMALL, **options}
    return litmus.compare(list(arms), data=data, training=TrainSettings(**settings), runs=runs, **terms)


def command_line(*more, arms=("standard", "nope")):
    """The same call as command line arguments."""
    options = {key: TRAINING[key] for key in ("budget", "batch", "context", "lr", "precision", "threads")}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    words += [f"--option={key}={TRAINING[key]}" for key in ("validate_tokens", "evaluate_tokens")]
    words += [f"--set={key}={value}" for key, value in SMALL.items()]
    words += ["--data", "notes.txt", "--tokenizer", "bytes", "--seeds", "2", "--noise", "--jobs", "2", "--name", "x"]
    return ["compare", *arms, *words, *more]


@pytest.fixture(scope="session")
def first(text_folder):
    """A finished comparison, not to be modified: two arms, two seeds, and the noise trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(text_folder)
        patch.setenv("LITMUS_CACHE", str(text_folder / "cache"))
        return compared(text_folder / "first")


@pytest.fixture
def runs(first, tmp_path):
    """A folder of runs with a copy of the finished comparison in it, under the name x."""
    shutil.copytree(first.folder, tmp_path / "runs" / "x", symlinks=True)
    return tmp_path / "runs"


@pytest.fixture
def command(text_folder, tmp_path, monkeypatch, capsys):
    """command("compare", ...) -> (exit code, stdout, stderr), called in the parent of the folder `runs`."""
    shutil.copy(text_folder / "notes.txt", tmp_path)
    monkeypatch.chdir(tmp_path)

    def call(words):
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def reproducible(result: ComparisonResult):
    """What must be equal in a repeated comparison: everything in the trials except times and memory."""
    trials = [trial.model_dump(mode="json") for trial in result.trials]
    for trial in trials:
        for key in TIMING:
            del trial[key]
        for point in trial["curve"]:
            del point["seconds"]
    return trials


def mtimes(runs):
    """The modification times of all files of the trials."""
    return {str(path): path.stat().st_mtime_ns for path in (runs / "x" / "trials").rglob("*.*") if path.is_file()}


def trial_folder(runs, arm="nope", seed=1, role="arm"):
    return runs / "x" / "trials" / role / arm / f"seed-{seed}"


def run_config(first, role, arm, seed):
    return yaml.safe_load((trial_folder(first.folder.parent, arm, seed, role) / "run" / "run.yaml").read_text())


def test_paired_arms_see_the_same_batches_and_other_seeds_others(first):
    orders = {}
    for trial in first.result.trials:
        settings = TrainSettings(**run_config(first, trial.role, trial.arm, trial.seed)["training"])
        orders.setdefault(trial.seed, set()).add(settings.order_seed)
    assert orders == {0: {0}, 1: {1}}
    assert {run_config(first, t.role, t.arm, t.seed)["data_fingerprint"] for t in first.result.trials} == {
        first.result.context["fingerprint"]
    }


def test_the_noise_trials_are_the_baseline_from_another_init(first):
    noise = first.result.trials_of("standard", "noise")
    assert [trial.seed for trial in noise] == [0, 1] and not first.result.trials_of("nope", "noise")
    for again, trial in zip(noise, first.result.trials_of("standard"), strict=True):
        ours, theirs = (run_config(first, role, "standard", trial.seed) for role in ("noise", "arm"))
        assert ours["recipe"] == theirs["recipe"]
        assert ours["training"]["seed"] != theirs["training"]["seed"]
        assert again.bits_per_byte != trial.bits_per_byte


def test_there_is_a_verdict_for_each_arm_but_the_baseline_and_a_report(first):
    assert [verdict.arm for verdict in first.verdicts] == ["nope"]
    assert list(first.verdicts[0].differences) == [0, 1]
    assert first.verdicts[0].level == pytest.approx(0.05)
    page = first.report.read_text(encoding="utf-8")
    assert "nope" in page and "passes its audit" in page
    assert ComparisonResult.load(first.folder / "comparison.json") == first.result


def test_each_run_carries_the_audit_of_its_arm(first):
    for trial in first.result.trials:
        run = trial_folder(first.folder.parent, trial.arm, trial.seed, trial.role) / "run"
        kept = json.loads((run / "audit.json").read_text())
        assert (kept["subject"], kept["passed"]) == (trial.arm, True)
        assert load_run(run).model.recipe.name == trial.arm


def test_the_command_finds_finished_trials_and_trains_nothing(command, first, runs):
    before = mtimes(runs)
    code, out, err = command(command_line())
    assert code == 0
    assert "runs/x/report.html" in out and "nope" in out
    assert err.splitlines()[0] == "comparing standard, nope on notes.txt: loading PyTorch"
    assert {path: time for path, time in mtimes(runs).items() if not path.endswith("audit.json")} == {
        path: time for path, time in before.items() if not path.endswith("audit.json")
    }
    assert reproducible(ComparisonResult.load(runs / "x" / "comparison.json")) == reproducible(first.result)


def test_with_json_stdout_is_json_alone(command, first, runs):
    code, out, _ = command(command_line("--json"))
    printed = json.loads(out)
    assert code == 0
    assert [(v["arm"], v["word"]) for v in printed["verdicts"]] == [(v.arm, v.word) for v in first.verdicts]
    assert ComparisonResult.model_validate(printed["result"]).trials == first.result.trials
    assert printed["report"] == "runs/x/report.html" and printed["against_itself"]["arm"] == "standard"
    files = [arm["audit"] for arm in printed["arms"]] + [
        f"{run}/run.yaml" for arm in printed["arms"] for run in arm["runs"]
    ]
    assert len(files) == 6 and all(Path(file).is_file() for file in files)
    assert all(seconds > 0 for arm in printed["arms"] for seconds in arm["train_seconds"].values())


def set_scores(runs, arm, bits_per_byte):
    """Write other scores into the outcomes of an arm, by seed."""
    for seed, score in enumerate(bits_per_byte):
        path = trial_folder(runs, arm, seed) / "outcome.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "bits_per_byte": score}))


@pytest.mark.parametrize(("scores", "code"), [((5.0, 5.001), 0), ((9.0, 9.001), 1), ((7.0, 7.5), 1)])
def test_require_better_fails_unless_every_arm_is_better(command, runs, scores, code):
    set_scores(runs, "standard", (7.5, 7.501))
    shutil.rmtree(runs / "x" / "trials" / "noise")
    set_scores(runs, "nope", scores)
    assert command(command_line("--no-noise", "--require-better"))[0] == code
    assert command(command_line("--no-noise"))[0] == 0


def specs(first):
    return [TrialSpec.model_validate_json(path.read_bytes()) for path in (first.folder / "trials").rglob("trial.json")]


DAMAGED = {
    "missing": None,
    "empty": b"",
    "cut short": b'{"arm": "no',
    "not text": b"\xff\xfe{}",
    "another record": b"{}",
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("file", ["outcome.json", "trial.json"])
def test_a_trial_with_a_damaged_file_counts_as_unfinished(first, runs, file, damage):
    for spec in specs(first):
        path = runs / "x" / spec.subfolder / file
        path.unlink()
        if (content := DAMAGED[damage]) is not None:
            path.write_bytes(content)
        assert stored_result(spec, first.folder) in first.result.trials
        assert stored_result(spec, runs / "x") is None


def test_the_outcome_of_another_trial_is_not_used(first, runs):
    one, other = specs(first)[:2]
    shutil.copy(first.folder / other.subfolder / "outcome.json", runs / "x" / one.subfolder)
    assert stored_result(one, runs / "x") is None


def test_a_trial_with_other_settings_is_refused(first, runs):
    one = specs(first)[0]
    other = one.model_copy(update={"training": one.training.model_copy(update={"lr": 1.0})})
    with pytest.raises(BadInput, match="holds a trial with other settings"):
        stored_result(other, runs / "x")


def test_damaged_trials_are_made_again_from_their_runs_without_training(first, runs):
    (trial_folder(runs, seed=0) / "outcome.json").write_bytes(b"{")
    (trial_folder(runs, seed=1) / "trial.json").unlink()
    before = mtimes(runs)
    assert reproducible(compared(runs).result) == reproducible(first.result)
    assert not {path for path, time in mtimes(runs).items() if before.get(path) != time and "checkpoints" in path}


@pytest.mark.parametrize("file", ["comparison.json", "plan.json", "audits/nope/audit.json"])
@pytest.mark.parametrize("content", [None, b"", b"[1, 2", b"null"])
def test_a_damaged_file_of_the_comparison_is_made_again(first, runs, file, content):
    path = runs / "x" / file
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert reproducible(compared(runs).result) == reproducible(first.result)
    if file != "audits/nope/audit.json":  # an audit holds its times
        assert json.loads(path.read_bytes()).keys() == json.loads(whole).keys()


@pytest.mark.parametrize(
    "file",
    ["comparison.json", "plan.json", "report.html", "audits/nope/audit.json", "trials/arm/nope/seed-1/outcome.json"],
)
def test_a_folder_where_a_file_belongs_is_one_sentence(command, runs, file):
    path = runs / "x" / file
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("kept")
    code, _, err = command(command_line())
    assert code == 2
    assert Path(file).name in err.splitlines()[-1] and "Traceback" not in err
    assert (path / "mine.txt").read_text() == "kept"


OLD = json.loads((Path(__file__).parent / "version_0_1.json").read_text())
"""The plan, specs and outcomes that version 0.1.0 wrote for the comparison of `first`."""


@pytest.fixture
def old(audited):
    """A folder of runs with that comparison, as version 0.1.0 wrote it."""
    for name, content in OLD.items():
        path = audited / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return audited


def test_trials_of_another_method_are_not_mixed_in(old):
    with pytest.raises(BadInput, match="belongs to a comparison with method = 1, and 2 was asked for"):
        compared(old)
    assert not list(old.rglob("run"))


def test_a_comparison_of_version_0_1_loads(tmp_path):
    trials = [content for name, content in OLD.items() if name.endswith("outcome.json")]
    terms = {"name": "x", "baseline": "standard", "arms": ["standard", "nope"], "budget": "8 steps"}
    (tmp_path / "comparison.json").write_text(json.dumps({**terms, "trials": trials}))
    result = ComparisonResult.load(tmp_path / "comparison.json")
    assert [trial.bits_per_byte for trial in result.trials] == [trial["bits_per_byte"] for trial in trials]


def test_seeds_are_added_until_every_arm_is_decided(first, runs):
    set_scores(runs, "standard", (7.5, 7.501))
    set_scores(runs, "nope", (9.0, 9.001))
    before = mtimes(runs)
    comparison = compared(runs, seeds="2..4", noise=False)
    assert [verdict.word for verdict in comparison.verdicts] == ["worse"]
    assert mtimes(runs) == before  # two seeds were enough
    set_scores(runs, "nope", (7.5, 7.6))
    comparison = compared(runs, seeds="2..3", margin=1e-6, noise=False)
    assert [trial.seed for trial in comparison.result.trials_of("nope")] == [0, 1, 2]
    assert json.loads(comparison.to_json())["result"]["looks"] == [2, 3]


@pytest.mark.parametrize("seeds", ["1", "x", "3..", "5..3", "3..1000", "1..3", "3..4..5", "1001"])
def test_seeds_that_are_no_number_or_range_are_refused(seeds):
    with pytest.raises(BadInput, match=r"seed"):
        parse_seeds(seeds)


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_that_is_no_positive_number_is_refused(margin):
    with pytest.raises(BadInput, match="margin is"):
        compared("runs", margin=margin)


def test_another_comparison_takes_over_the_trials_that_are_the_same(first, runs):
    before = mtimes(runs)
    other = compared(runs, arms=("standard", "ssmax", "nope"), name="y", noise=False)
    for arm in ("standard", "nope"):
        ours, theirs = (
            [trial.model_dump() for trial in result.trials_of(arm)] for result in (other.result, first.result)
        )
        assert ours == theirs  # times included
    assert mtimes(runs) == before


def test_more_seeds_train_only_what_is_missing(first, runs):
    before = mtimes(runs)
    result = compared(runs, seeds=3, noise=False).result
    assert [trial.seed for trial in result.trials_of("nope")] == [0, 1, 2]
    assert {path: time for path, time in mtimes(runs).items() if path in before and "audit" not in path} == {
        path: time for path, time in before.items() if "audit" not in path
    }


CHANGED = [
    ({"lr": 0.02}, "training.lr = 0.01, and 0.02 was asked for"),
    ({"budget": "9 steps"}, "training.budget = '8 steps'"),
    ({"lr_sweep": True}, "lr_sweep = False, and True was asked for"),
    ({"overrides": {**SMALL, "heads": 1}}, "arms.standard.heads = 2, and 1 was asked for"),
    ({"prompt": "the"}, "prompt = '', and 'the' was asked for"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGED, ids=[str(next(iter(change))) for change, _ in CHANGED])
def test_other_settings_in_its_folder_are_refused_before_anything_is_done(runs, change, sentence):
    before = mtimes(runs)
    with pytest.raises(BadInput, match="belongs to a comparison with") as error:
        compared(runs, **change)
    assert sentence in str(error.value)
    assert mtimes(runs) == before


def test_another_text_under_the_same_name_is_never_mixed_in(text_folder, first, runs, tmp_path, monkeypatch):
    before = mtimes(runs)
    (tmp_path / "notes.txt").write_text((text_folder / "notes.txt").read_text().replace("cat", "cow"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="belongs to a comparison with data_fingerprint"):
        compared(runs)
    assert mtimes(runs) == before
    (tmp_path / "notes.txt").write_text((text_folder / "notes.txt").read_text())
    assert reproducible(compared(runs).result) == reproducible(first.result)


def test_a_corpus_that_changes_while_trials_run_ends_the_comparison_in_one_sentence(first, tmp_path):
    spec = specs(first)[0].model_copy(update={"data_fingerprint": "0" * 64})
    with pytest.raises(BadInput, match="has changed since this comparison was planned"):
        run_trials([spec], tmp_path, jobs=1, on_event=lambda spec, event: None)
    assert not (tmp_path / spec.subfolder / "run").exists()


def test_each_plan_has_a_folder_of_its_own():
    tokens = prepare(DataSettings(corpus="notes.txt", tokenizer="bytes"))
    arms = resolve_arms(["standard", "nope"], size=None, context=16, overrides=SMALL, vocab_size=257)
    plan = Plan(arms, DataSettings(), tokens.fingerprint, TrainSettings(**TRAINING), True, False, "")
    others = [
        {"fingerprint": "another"}, {"lr_sweep": True}, {"prompt": "the"},
        {"training": TrainSettings(**{**TRAINING, "lr": 1.0})}, {"arms": dict(reversed(arms.items()))},
    ]  # fmt: skip
    same = [{"noise": False}]
    identities = [Plan(**{**vars(plan), **change}).identity for change in others[:-1]]
    assert len({plan.identity, *identities}) == len(others)
    assert {Plan(**{**vars(plan), **change}).identity for change in same} == {plan.identity}


def test_a_sweep_tries_three_rates_on_the_whole_budget():
    arms = resolve_arms(["standard", "nope"], size=None, context=16, overrides=SMALL, vocab_size=257)
    plan = Plan(arms, DataSettings(), "", TrainSettings(**TRAINING), True, True, "")
    for arm in arms:
        rates = [spec.training.lr for spec in plan.sweep() if spec.arm == arm]
        assert rates == pytest.approx([0.01 / 10**0.5, 0.01, 0.01 * 10**0.5])
    assert {spec.training.budget for spec in plan.sweep()} == {TRAINING["budget"]}
    assert len({spec.subfolder for spec in plan.sweep()}) == 6
    several = Plan(**{**vars(plan), "sweep_seeds": 2})
    assert several.identity != plan.identity
    assert [spec.seed for spec in several.sweep() if spec.arm == "nope"] == [0, 0, 0, 1, 1, 1]
    assert len({spec.subfolder for spec in several.sweep()}) == 12


def test_trials_are_paired_by_seed_and_noise_trials_differ_only_in_their_init():
    arms = resolve_arms(["standard", "nope"], size=None, context=16, overrides=SMALL, vocab_size=257)
    plan = Plan(arms, DataSettings(), "", TrainSettings(**TRAINING), True, False, "")
    trials = {(t.role, t.arm, t.seed): t for t in plan.trials({"standard": 0.1, "nope": 0.2}, range(3))}
    assert len(trials) == 9
    for seed in range(3):
        one, other, again = (
            trials[key, arm, seed] for key, arm in (("arm", "standard"), ("arm", "nope"), ("noise", "standard"))
        )
        assert [t.training.order_seed for t in (one, other, again)] == [seed] * 3
        assert one.training.seed == other.training.seed != again.training.seed
        assert (one.training.lr, other.training.lr, again.training.lr) == (0.1, 0.2, 0.1)
        assert again.recipe == one.recipe
        assert again.training.model_copy(update={"seed": one.training.seed}) == one.training


def test_a_comparison_is_no_prior_of_itself(command, first, runs):
    code, out, err = command(command_line("--prior", "runs", "--json"))
    assert code == 0 and "no comparison in runs is on the same terms: no prior" in err
    assert json.loads(out)["result"]["prior"] == []


def test_with_a_sweep_each_arm_is_judged_at_its_own_best_rate(first, audited, tmp_path):
    data = DataSettings(corpus="notes.txt", tokenizer="bytes")
    arms = resolve_arms(["standard", "nope"], size="tiny", context=16, overrides=SMALL, vocab_size=257)
    plan = Plan(arms, data, first.result.context["fingerprint"], TrainSettings(**TRAINING), False, True, "")
    for spec in plan.sweep():  # the standard arm is best at the lowest rate, the other at the highest
        folder = audited / "x" / spec.subfolder
        folder.mkdir(parents=True)
        (folder / "trial.json").write_text(spec.model_dump_json())
        lr, sign = spec.training.lr, 1 if spec.arm == "standard" else -1
        changes = {"arm": spec.arm, "role": "sweep", "seed": 0, "lr": lr, "bits_per_byte": 7 + sign * lr}
        (folder / "outcome.json").write_text(json.dumps({**first.result.trials[0].model_dump(mode="json"), **changes}))
    comparison = compared(audited, lr_sweep=True, noise=False)
    done, swept = comparison.result, json.loads(comparison.to_json())["learning_rates"]
    assert [(row["arm"], len(row["tried"]), row["at_edge"]) for row in swept] == [
        ("standard", 3, True),
        ("nope", 3, True),
    ]
    assert [trial.bits_per_byte for trial in done.trials if trial.role == "sweep"] == [
        7 + (1 if spec.arm == "standard" else -1) * spec.training.lr for spec in plan.sweep()
    ]
    assert [trial.lr for trial in done.trials_of("standard")] == pytest.approx([0.01 / 10**0.5] * 2)
    assert [trial.lr for trial in done.trials_of("nope")] == pytest.approx([0.01 * 10**0.5] * 2)


@pytest.fixture
def audited(first, tmp_path):
    """A folder of runs with only the audits of standard and nope."""
    shutil.copytree(first.folder / "audits", tmp_path / "runs" / "x" / "audits")
    return tmp_path / "runs"


@pytest.fixture
def trained(first, audited):
    """A folder of runs with the audits and trials of standard and nope, without noise trials."""
    shutil.copytree(first.folder / "trials" / "arm", audited / "x" / "trials" / "arm")
    return audited


def test_audits_of_the_same_recipes_are_taken_from_another_comparison(audited):
    kept = audited / "x" / "audits" / "nope" / "audit.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "note": "made elsewhere"}))
    done = compared(audited, name="y", noise=False, budget="2 steps", validate_tokens=32, evaluate_tokens=64)
    assert json.loads((done.folder / "audits" / "nope" / "audit.json").read_text())["note"] == "made elsewhere"


def test_each_size_is_compared_in_a_folder_of_its_own(audited):
    done = compare_sizes(
        ["standard", "nope"], ["tiny", "mini"], name="y", runs=audited, overrides=SMALL, seeds=2, jobs=2,
        data=DataSettings(corpus="notes.txt", tokenizer="bytes"), training=TrainSettings(**TRAINING),
    )  # fmt: skip
    assert [comparison.folder.name for comparison in done.comparisons.values()] == ["y-tiny", "y-mini"]
    assert set(json.loads(done.to_json())["sizes"]) == {"tiny", "mini"}


def test_an_arm_that_sees_the_future_gets_a_finding_in_place_of_a_score(command, trained):
    code, out, _ = command(command_line("--no-noise", arms=("standard", "nope", str(LEAKY))))
    assert code == 1
    assert "fails audit: sees the future" in out.replace("\n", " ")
    result = ComparisonResult.load(trained / "x" / "comparison.json")
    (leaky,) = set(result.arms) - {"standard", "nope"}
    assert not result.trials_of(leaky) and result.arm_notes[leaky] == "fails audit: sees the future"
    assert "sees the future" in (trained / "x" / "report.html").read_text()


def test_a_leaking_arm_kept_on_request_is_trained_marked_and_never_judged(trained):
    kept = compared(trained, arms=("standard", str(LEAKY)), noise=False, keep_failed=True)
    (verdict,) = kept.verdicts
    assert (verdict.word, verdict.reason) == ("no verdict", "fails audit: sees the future")
    trained = [trial for trial in kept.result.trials if trial.arm == verdict.arm]
    assert len(trained) == 2 and all(trial.failed is None for trial in trained)
    assert kept.result.scored(verdict.arm) == []


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        (("standard", str(LEAKY)), "no arm is left to compare"),
        ((str(LEAKY), "standard"), "the baseline 'f1_linformer_over_time' fails audit: sees the future"),
    ],
)
def test_where_the_audits_leave_nothing_to_compare_nothing_is_trained(audited, arms, sentence):
    with pytest.raises(Failed, match=sentence):
        compared(audited, arms=arms)
    assert not (audited / "x" / "trials").exists()


PLUGIN = """
from typing import Literal
from litmus.nn import Attention, AttentionConfig

class MineConfig(AttentionConfig):
    kind: Literal["compared_{kind}"] = "compared_{kind}"

    def build(self, layer):
        return Mine(self, layer)

class Mine(Attention):
    def forward(self, x, ctx):
        return super().forward(x{leak}, ctx)

recipe = {{"base": "standard", "mixer": {{"kind": "compared_{kind}"}}}}
"""


def test_a_corrected_plugin_is_audited_again_under_the_same_name(audited, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(PLUGIN.format(kind="fixed", leak=" + x.mean(1, keepdim=True)"))
    with pytest.raises(Failed, match="sees the future"):
        compared(audited, arms=("standard", str(mine)), noise=False)
    mine.write_text(PLUGIN.format(kind="fixed", leak=""))
    assert compared(audited, arms=("standard", str(mine)), noise=False).result.arm_notes == {}
    mine.write_text(PLUGIN.format(kind="fixed", leak=" + x.mean(1, keepdim=True)"))
    with pytest.raises(BadInput, match=r"belongs to a comparison with arms\.mine\.plugin"):
        compared(audited, arms=("standard", str(mine)), noise=False)


def test_a_file_and_its_edited_copy_are_compared_each_with_its_own_class(text_folder, tmp_path):
    """Two files define a class of one name; the copy's has one weight more. Audits and trials are other processes."""
    idea, copy = tmp_path / "idea.py", tmp_path / "idea2.py"
    code = PLUGIN.format(kind="copied", leak="")
    idea.write_text(code)
    shifted = code.replace("super().forward(x, ctx)", "super().forward(x, ctx) + self.shift")
    copy.write_text(shifted.replace("class Mine(Attention):\n", f"import torch\nclass Mine(Attention):{SHIFT}"))
    terms = {"noise": False, "budget": "2 steps", "validate_tokens": 32, "evaluate_tokens": 64}
    done = compared(tmp_path / "runs", arms=[str(idea), str(copy)], **terms)
    own, edited = ([trial.run.parameters for trial in done.result.trials_of(arm)] for arm in ("idea", "idea2"))
    assert done.result.arm_notes == {} and [count + 1 for count in own] == edited
    idea.write_text("recipe = {}\n")
    saved = [trial_folder(tmp_path / "runs", arm=arm) / "run" for arm in ("idea", "idea2")]
    models = [load_run(folder).model for folder in saved]
    assert [hasattr(model.layers[0].mixer, "shift") for model in models] == [False, True]


SHIFT = """
    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.shift = torch.nn.Parameter(torch.zeros(()))

"""


def test_a_file_and_its_copy_start_differently(tmp_path):
    """They are one architecture: with equal starts and orders, two trainings would be one."""
    files = [tmp_path / "idea.py", tmp_path / "a/idea.py"]
    files[1].parent.mkdir()
    for file in files:
        file.write_text(PLUGIN.format(kind="twice", leak=""))
    arms = resolve_arms([str(file) for file in files], size="tiny", context=16, overrides=SMALL)
    plan = Plan(arms, DataSettings(), "", TrainSettings(), noise=False, lr_sweep=False, prompt="")
    first, second = plan.trials({"idea": 0.1, "idea-2": 0.1}, [0])
    assert first.training.seed != second.training.seed and first.seed == second.seed


def test_trials_run_the_audited_code_even_if_the_file_or_the_trust_list_changes(
    text_folder, first, tmp_path, monkeypatch
):
    monkeypatch.setattr("litmus.model.trust._named", set())
    (tmp_path / "state").write_text("a file where a folder belongs")
    monkeypatch.setenv("LITMUS_STATE", str(tmp_path / "state"))
    mine = tmp_path / "mine.py"
    mine.write_text(PLUGIN.format(kind="edited", leak=""))
    code = mine.read_bytes()
    arms = resolve_arms(["standard", str(mine)], size="tiny", context=16, overrides=SMALL, vocab_size=257)
    spec = TrialSpec.model_validate_json((trial_folder(first.folder.parent) / "trial.json").read_bytes())
    spec = spec.model_copy(update={"arm": "mine", "recipe": arms["mine"].to_dict()})
    mine.write_text("raise SystemExit('the edited file ran')\n")
    (result,) = run_trials([spec], tmp_path / "x", jobs=1, on_event=lambda *event: None)
    assert not result.failed and result.bits_per_byte > 0
    copies = list((tmp_path / "x" / spec.subfolder / "run").rglob("plugin.py"))
    assert copies and all(copy.read_bytes() == code for copy in copies)


def test_a_diverged_trial_is_a_result_without_a_verdict(audited):
    done = compared(audited, lr=1000, weight_decay=1e9, noise=False)
    assert all("diverged" in trial.failed for trial in done.result.trials)
    (verdict,) = done.verdicts
    assert verdict.word == "no verdict" and "trials failed" in verdict.reason
    before = mtimes(audited)
    again = compared(audited, lr=1000, weight_decay=1e9, noise=False)
    assert str(reproducible(again.result)) == str(reproducible(done.result))  # as text, in which NaN equals itself
    assert {p: t for p, t in mtimes(audited).items() if "audit" not in p} == {
        p: t for p, t in before.items() if "audit" not in p
    }


REFUSED = [
    ({"confidence": 0.5}, "confidence is 0.5; valid are numbers above 0.5"),
    ({"confidence": 95}, "confidence is 95; valid are numbers above 0.5"),
    ({"sweep_seeds": 3}, "--sweep-seeds 3 is for a learning-rate sweep; add --lr-sweep"),
    ({"sweep_seeds": 0}, "0 seeds of the learning-rate sweep; valid are 1 to"),
    ({"primary": "bbp"}, "unknown metric 'bbp'"),
    ({"seeds": 1}, "1 seed cannot give a verdict"),
    ({"seeds": 10**20}, "100000000000000000000 seeds are too many"),
    ({"jobs": 0}, "0 jobs would run nothing"),
    ({"arms": ("standard",)}, "1 arm was given"),
    ({"arms": ("standard", "nopee")}, "unknown recipe 'nopee'"),
    ({"size": "huge"}, "unknown size 'huge'"),
    ({"overrides": {"context": 64}}, "--set context=64"),
    ({"device": "abacus"}, "device 'abacus' cannot train"),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_cannot_be_compared_is_refused_before_any_text_is_read(tmp_path, change, sentence):
    with pytest.raises(BadInput) as error:
        compared(tmp_path / "runs", text="missing.txt", **change)
    assert sentence in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_recipes_are_compared_at_their_own_size_on_request(command, tmp_path):
    arms = {"size": "own", "context": 16, "overrides": {}, "vocab_size": 257}
    own = resolve_arms(["standard", "super-small"], **arms)
    assert {name: recipe.dim for name, recipe in own.items()} == {
        name: litmus.build(name, vocab_size=16).recipe.dim for name in ("standard", "super-small")
    }
    tiny = resolve_arms(["standard", "super-small"], **{**arms, "size": "tiny"})
    assert {recipe.dim for recipe in tiny.values()} == {128}
    code, _, err = command(["compare", "standard", "nope", "--size", "own", "--confidence", "0"])
    assert code == 2 and "confidence is 0" in err


def test_a_folder_with_other_files_is_not_changed(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="holds something other than a comparison"):
        compared(tmp_path)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["thesis.txt"]


def test_runs_that_cannot_be_a_folder_are_one_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(BadInput, match="runs"):
        compared(tmp_path / "runs")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("a file")
    with pytest.raises(BadInput, match="x is a file"):
        compared(tmp_path / "other")
