"""`litmus runs`: a folder of runs is listed, shown, put side by side and removed; the ledger keeps verdicts."""

from __future__ import annotations

import io
import json
import random
import shutil

import pytest

import litmus
from litmus.cli import main
from litmus.comparison.ledger import LEDGER, LedgerLine, append, read_ledger
from litmus.comparison.plan import Plan, resolve_arms
from litmus.comparison.report.run_page import save_run_report
from litmus.data import DataSettings
from litmus.errors import BadInput
from litmus.locks import folder_lock
from litmus.training import TrainSettings

LINE = LedgerLine(
    date="2026-01-01 00:00 UTC",
    command="litmus compare",
    folder="pair",
    arms=["standard", "nope"],
    budget="3 steps",
    seeds=2,
    fingerprint="f",
    identity="i",
    verdicts=[{"arm": "nope", "word": "better", "difference": -0.1, "interval": [-0.2, -0.05], "metric": "bpb"}],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of runs, not to be modified: the comparison `pair`, and the runs `one` and `two`, of its trials."""
    desk = tmp_path_factory.mktemp("desk")
    draw = random.Random(0)
    (desk / "notes.txt").write_text("".join(" ".join(draw.choices("abcdefgh", k=9)) + ".\n" for _ in range(300)))
    training = TrainSettings(
        budget="3 steps", batch=2, context=16, precision="fp32", threads=1, validate_tokens=64, evaluate_tokens=64
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.setenv("LITMUS_CACHE", str(desk / "cache"))
        litmus.compare(
            ["standard", "nope"],
            data=DataSettings(corpus="notes.txt", tokenizer="bytes"),
            training=training,
            overrides={"dim": 16, "depth": 1, "heads": 2},
            seeds=2,
            jobs=1,
            name="pair",
        )
    for name, arm in (("one", "standard"), ("two", "nope")):
        shutil.copytree(desk / "runs" / "pair" / "trials" / "arm" / arm / "seed-0" / "run", desk / "runs" / name)
        save_run_report(desk / "runs" / name)
    return desk


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """A copy of that folder, in the current one."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def call(runs, capsys):
    """call("list", ...) -> (exit code, stdout, stderr) of `litmus runs list ...`."""

    def typed(*words):
        with pytest.raises(SystemExit) as ended:
            main(["runs", *words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return typed


def test_the_list_has_scores_verdicts_and_sizes(call, runs):
    (runs / "mine").mkdir()
    (runs / "mine" / "thesis.tex").write_text("x")
    code, out, _ = call("list", "--json")
    listed = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0 and set(listed) == {"pair", "one", "two"}
    assert listed["pair"]["kind"] == "comparison" and listed["pair"]["arms"] == ["standard", "nope"]
    assert all((runs.parent / entry["folder"]).is_dir() for entry in listed.values())
    assert listed["pair"]["verdicts"] == {v["arm"]: v["word"] for v in read_ledger(runs)[0].verdicts}
    result = json.loads((runs / "one" / "result.json").read_text())
    assert listed["one"]["score"] == result["evaluation"]["bits_per_byte"]
    assert listed["one"]["bytes"] == sum(p.stat().st_size for p in (runs / "one").rglob("*") if p.is_file())
    code, out, _ = call("list")
    assert code == 0 and f"{listed['one']['score']:.4f} bpb" in out


@pytest.mark.parametrize(
    ("file", "content"), [("pair/comparison.json", "{"), ("one/run.yaml", "x: ["), ("one/result.json", "[]")]
)
def test_a_damaged_entry_is_listed_as_damaged_and_can_be_removed(call, runs, file, content):
    (runs / file).write_text(content)
    name = file.partition("/")[0]
    code, out, _ = call("list", "--json")
    listed = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0 and listed[name]["status"] == "damaged" and file in listed[name]["note"]
    code, _, err = call("show", name)
    assert code == 2 and err.count("\n") == 1
    assert call("remove", name, "--yes")[0] == 0 and not (runs / name).exists()


def test_a_comparison_is_shown_without_its_trials(call, runs):
    shutil.rmtree(runs / "pair" / "trials")
    code, out, _ = call("show", "pair", "--json")
    shown = json.loads(out)
    assert code == 0 and shown["report"] == "runs/pair/report.html" and shown["learning_rates"] == []
    arms = {arm["arm"]: arm for arm in shown["arms"]}
    assert arms["standard"]["is_baseline"] and arms["nope"]["costs"]["parameters"] > 1000
    assert arms["nope"]["bits_per_byte"] == pytest.approx(sum(arms["nope"]["scores"].values()) / 2)
    assert shown["verdicts"][0]["interval"][0] < shown["verdicts"][0]["difference"]
    code, out, _ = call("show", "runs/pair")
    assert code == 0 and shown["verdicts"][0]["word"] in out and "report: runs/pair/report.html" in out
    (runs / "pair" / "comparison.json").unlink()
    code, _, err = call("show", "pair")
    assert code == 2 and "has not finished" in err


def test_a_run_is_shown_with_recipe_settings_score_and_audit(call):
    code, out, _ = call("show", "one")
    assert code == 0
    assert "standard" in out and "3 steps" in out and "passes its audit" in out and "bits per byte" in out
    shown = json.loads(call("show", "one", "--json")[1])
    assert shown["report"] == "runs/one/report.html"
    assert shown["result"]["steps"] == 3 and shown["audit"]["passed"] and shown["recipe"]["name"] == "standard"


def test_trainings_side_by_side_have_scores_and_no_verdict(call):
    code, out, _ = call("compare", "one", "pair", "--json")
    rows = json.loads(out)["runs"]
    assert code == 0 and [row["name"] for row in rows][:2] == ["one", "pair: standard, seed 0"] and len(rows) == 5
    assert [row["folder"] for row in rows[:2]] == ["runs/one", "runs/pair/trials/arm/standard/seed-0/run"]
    assert rows[0]["bits_per_byte"] == rows[1]["bits_per_byte"] and rows[0]["parameters"] == rows[1]["parameters"]
    code, out, _ = call("compare", "one", "two")
    assert code == 0 and "no error bar" in out and "better" not in out and "worse" not in out


@pytest.mark.parametrize("what", ["bytes", "data_fingerprint"])
def test_scores_on_different_text_are_not_put_side_by_side(call, runs, what):
    if what == "bytes":
        path, old = runs / "two" / "result.json", '"bytes":'
        path.write_text(path.read_text().replace(f"{old} ", f"{old} 1"))
    else:
        path, old = runs / "two" / "run.yaml", "data_fingerprint: "
        path.write_text(path.read_text().replace(old, f"{old}a"))
    code, _, err = call("compare", "one", "two")
    assert code == 2 and err.count("\n") == 1 and "one" in err and "two" in err and "same text" in err


def test_remove_deletes_the_whole_entry_and_keeps_the_ledger(call, runs):
    before = read_ledger(runs)
    code, out, _ = call("remove", "pair", "one", "--yes", "--json")
    assert code == 0 and json.loads(out)["removed"] == ["runs/pair", "runs/one"]
    assert sorted(path.name for path in runs.iterdir()) == [LEDGER, "two"]
    assert read_ledger(runs) == before and len(before) == 1


@pytest.mark.parametrize("file", ["pair/trials/arm/nope/seed-1/run/checkpoints/mine.txt", "one/notes/mine.txt"])
def test_files_of_others_stay_and_are_named(call, runs, file):
    (runs / file).parent.mkdir(exist_ok=True)
    (runs / file).write_text("mine")
    name, _, rest = file.partition("/")
    code, out, _ = call("remove", name, "--yes")
    assert code == 0 and rest in out
    assert [str(path.relative_to(runs)) for path in (runs / name).rglob("*") if path.is_file()] == [file]


def test_remove_refuses_what_another_process_works_in(call, runs):
    for place in ("one", "pair", "pair/trials/arm/nope/seed-0"):
        with folder_lock(runs / place, "training in"):
            code, _, err = call("remove", place.partition("/")[0], "--yes")
        assert code == 2 and "another process is training in" in err
        assert (runs / place).is_dir()


class Typed(io.StringIO):
    """A terminal on which somebody has typed this."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stdin", "code", "said"),
    [(io.StringIO(), 2, "add --yes"), (Typed("n\n"), 0, "nothing was removed"), (Typed("y\n"), 0, "this deletes")],
)
def test_remove_asks_on_a_terminal_and_refuses_elsewhere(call, runs, monkeypatch, stdin, code, said):
    monkeypatch.setattr("sys.stdin", stdin)
    found, out, err = call("remove", "one", "--json")
    assert found == code and said in err
    assert code == 2 or json.loads(out)["removed"] == (["runs/one"] if said == "this deletes" else [])
    assert (runs / "one").exists() == (said != "this deletes")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "oen"], "did you mean 'one'"),
        (["remove", "pair/trials/arm/nope/seed-0/run", "--yes"], "remove the comparison"),
        (["remove", "../notes", "--yes"], "is no run or comparison"),
        (["compare", "one"], "name at least one more"),
        (["list", "--runs", "elsewhere"], "no folder of runs 'elsewhere'"),
        (["list", "--ledger", "--runs", "elsewhere"], "no folder of runs 'elsewhere'"),
    ],
)
def test_bad_input_is_one_sentence(call, runs, words, sentence):
    words = [str(runs / word) if word.startswith("pair/") else word for word in words]
    code, _, err = call(*words)
    assert code == 2 and sentence in err and err.count("\n") == 1


def test_a_comparison_adds_one_line_to_the_ledger(made, call):
    [line] = read_ledger(made / "runs")
    assert (line.folder, line.arms, line.budget, line.seeds) == ("pair", ["standard", "nope"], "3 steps", 2)
    assert line.fingerprint and line.verdicts[0]["arm"] == "nope"
    code, out, _ = call("list", "--ledger", "--json")
    assert code == 0 and json.loads(out) == [line.model_dump(mode="json")]
    code, out, _ = call("list", "--ledger")
    assert code == 0 and line.verdicts[0]["word"] in out


def test_the_ledger_takes_an_equal_comparison_once_and_survives_a_truncated_line(tmp_path):
    other = LINE.model_copy(update={"seeds": 3})
    assert append(tmp_path, LINE)
    assert not append(tmp_path, LINE.model_copy(update={"date": "2026-02-02 00:00 UTC", "command": "again"}))
    path = tmp_path / LEDGER
    path.write_bytes(path.read_bytes() + b'{"date": "2026-0')
    assert read_ledger(tmp_path) == [LINE]
    assert append(tmp_path, other)
    assert read_ledger(tmp_path) == [LINE, other]


def test_a_ledger_that_is_a_folder_is_refused_before_any_training(tmp_path):
    (tmp_path / LEDGER).mkdir()
    with pytest.raises(BadInput, match="is not a file"):
        litmus.compare(["standard", "nope"], runs=tmp_path)


def test_the_report_of_a_run_stands_alone_and_escapes_its_sample(runs):
    path = runs / "one" / "result.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "sample": "<script>x</script>"}))
    page = save_run_report(runs / "one").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert f"{content['evaluation']['bits_per_byte']:.4f}" in page and "passes its audit" in page
    assert page.count("<svg") >= 4
    path.unlink()
    with pytest.raises(BadInput, match="not a finished run"):
        save_run_report(runs / "one")


def test_the_seed_of_the_training_is_that_of_the_first_trials():
    terms = {"size": None, "context": 16, "overrides": {"dim": 16, "depth": 1, "heads": 2}}
    arms = resolve_arms(["standard", "nope"], **terms, vocab_size=256)

    def plan(seed):
        training = TrainSettings(budget="3 steps", seed=seed)
        return Plan(arms, DataSettings(), "f", training, noise=False, lr_sweep=False, prompt="")

    rates = dict.fromkeys(arms, 0.001)
    assert [spec.training.order_seed for spec in plan(100).trials(rates, range(2))] == [100, 100, 101, 101]
    assert [spec.seed for spec in plan(0).trials(rates, range(2))] == [0, 0, 1, 1]
    assert plan(100).identity != plan(0).identity
    with pytest.raises(BadInput, match="too large"):
        plan(2**32 - 1)
