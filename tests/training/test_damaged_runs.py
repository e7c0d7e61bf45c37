"""Whatever happens to the files of a run, the same command goes on from what is whole, or refuses in one sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from litmus.data import DataSettings
from litmus.errors import BadInput, Failed
from litmus.training import TrainSettings
from litmus.training.display import Display
from litmus.training.evaluation import evaluate_run
from litmus.training.run.loading import load_run
from litmus.training.run.result import curve, read_result
from litmus.training.trainer import train_run

SETTINGS = {
    "budget": "20 steps", "batch": 4, "context": 16, "precision": "fp32", "threads": 1, "validate_every": 5,
    "checkpoint_every": 4, "validate_tokens": 128, "evaluate_tokens": 256,
}  # fmt: skip
TOY = {"base": "standard", "name": "toy", "dim": 16, "depth": 2, "heads": 2, "context": 32, "dropout": 0.1}
FILES = (
    "run.yaml",
    "recipe.yaml",
    "tokenizer/tokenizer.json",
    "metrics.jsonl",
    "checkpoints",
    "checkpoints/12",
    "checkpoints/12/model.safetensors",
    "checkpoints/12/optimizer.safetensors",
    "checkpoints/12/state.json",
    "checkpoints/12/manifest.json",
    "checkpoints/12/recipe.yaml",
    "result.json",
)
DAMAGES = ("missing", "empty", "truncated", "garbage", "a folder", "a file of another kind")


class Notes(Display):
    def __init__(self):
        self.notes = []

    def log(self, text):
        self.notes.append(text)


class CopyAt(Display):
    """Copies the run folder as it is after one step: what a kill at that moment would leave."""

    def __init__(self, folder, step, copy):
        self.folder, self.at, self.copy = folder, step, copy

    def step(self, status):
        if status.step == self.at:
            shutil.copytree(self.folder, self.copy)


@pytest.fixture(scope="module")
def made(corpus, session_folder, tmp_path_factory):
    """A folder with "whole", a finished run, and "killed", the same one as it stood after step 13 of 20."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITMUS_CACHE", str(session_folder / "cache"))
        display = CopyAt(home / "whole", 13, home / "killed")
        train_run(TOY, DataSettings(corpus=corpus, tokenizer="bytes"), TrainSettings(**SETTINGS), home / "whole",
              display=display)  # fmt: skip
    return home


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "killed", tmp_path / "run")
    return tmp_path / "run"


def go_on(folder, corpus, gate=None, **changes):
    display = Notes()
    source = {**TOY, **changes.pop("recipe", {})}
    data = DataSettings(corpus=corpus, tokenizer="bytes")
    result = train_run(source, data, TrainSettings(**{**SETTINGS, **changes}), folder, gate=gate, display=display)
    return result, display.notes


def stopped(recipe, folder):
    raise Failed("its audit found something")


def weights_of(folder):
    return load_file(folder / "checkpoints" / "20" / "model.safetensors")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil(path, damage):
    content = path.read_bytes() if path.is_file() else b"x" * 100
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if damage == "a folder":
        (path / "mine").mkdir(parents=True)
        (path / "mine" / "notes.txt").write_text("mine")
    elif damage != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[: len(content) * 2 // 3],
                "garbage": b"\xff\x00garbage\n" * 20,
                "a file of another kind": b'["some", {"json": 1}]\n',
            }[damage]
        )


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_run_with_a_spoilt_file_ends_as_it_would_have_or_is_refused_and_untouched(name, damage, run, made, corpus):
    spoil(run / name, damage)
    before = contents(run)
    for use in (load_run, lambda folder: evaluate_run(folder, limit_tokens=64)):
        try:
            use(run)
        except BadInput as refusal:
            assert "\n" not in str(refusal)
    assert contents(run) == before
    try:
        result, notes = go_on(run, corpus)
    except BadInput as refusal:
        assert "\n" not in str(refusal)
        assert name in ("run.yaml", "checkpoints", "checkpoints/12") or damage == "a folder", refusal
        lost = before.keys() - contents(run).keys()
        assert not lost
    else:
        assert name != "run.yaml"
        assert result.evaluation == read_result(made / "whole").evaluation
        theirs, ours = weights_of(made / "whole"), weights_of(run)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        begun_again = not any("resuming after step" in note for note in notes)
        assert begun_again == (name == "checkpoints"), notes
        assert not begun_again or any("starts again at the first step" in note for note in notes)
        for restored in ("run.yaml", "recipe.yaml", "tokenizer/tokenizer.json"):
            assert (run / restored).read_bytes() == (made / "killed" / restored).read_bytes()


def test_without_its_metrics_it_goes_on_from_the_checkpoint_and_says_which_lines_are_gone(run, corpus):
    (run / "metrics.jsonl").unlink()
    result, notes = go_on(run, corpus)
    assert any("has lines of 0 of the first 12 steps; those of the others are gone" in note for note in notes)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(13, 21))
    assert [point.step for point in result.curve] == [15, 20]


def test_another_training_does_not_get_a_folder_whose_metrics_are_gone(run, corpus):
    (run / "metrics.jsonl").unlink()
    before = contents(run)
    with pytest.raises(BadInput, match=r"belongs to a run with training.lr"):
        go_on(run, corpus, lr=0.1)
    assert contents(run) == before


def test_damaged_lines_of_the_metrics_are_dropped_and_the_others_kept(run, made, corpus):
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([*lines[:3], b"\xff{]\n", b"[1]\n", *lines[4:]]))
    _, notes = go_on(run, corpus)
    assert any("has lines of 11 of the first 12 steps" in note for note in notes)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3, *range(5, 21)]


def test_a_last_line_without_its_end_is_not_gone_on_with(run, made, corpus):
    lines = [line for line in (run / "metrics.jsonl").read_bytes().splitlines() if json.loads(line)["step"] <= 12]
    (run / "metrics.jsonl").write_bytes(b"\n".join(lines))
    go_on(run, corpus)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_curve_needs_no_line_in_particular(tmp_path):
    timing = {"timing": {"seconds": 1.0}}
    held_out = {"kind": "val", "tokens": 1, "loss": 2.0, "bpb": 3.0, **timing}
    lines = [
        {"step": 5, **held_out},
        {"kind": "train", "step": 6},
        {"kind": "train", "step": 7, "loss": 4.0, "loss/a": 1.0},
        {"kind": "train", "step": 8, "loss": 2.0},
        {"step": 9, **held_out},
        {"step": 10, **held_out, "timing": 3},
        {"step": 11, **held_out, "tokens": None},
        {"kind": 5, "step": 12},
        {"kind": "train", "step": True},
        [1],
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = curve(tmp_path / "metrics.jsonl")
    assert [(point.step, point.train_loss) for point in points] == [(5, None), (9, 3.0)]


def test_a_damaged_result_is_made_again(made, tmp_path, corpus):
    shutil.copytree(made / "whole", tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{")
    result, _ = go_on(tmp_path / "run", corpus)
    assert result == read_result(tmp_path / "run")
    assert result.evaluation == read_result(made / "whole").evaluation


def test_a_tokenizer_that_is_not_the_runs_own_is_refused_by_who_would_use_it(run, corpus):
    (run / "tokenizer" / "tokenizer.json").write_text('{"name":  "bytes"}')
    with pytest.raises(BadInput, match=r"tokenizer\.json is not the tokenizer that the run was trained with"):
        load_run(run)
    go_on(run, corpus)
    assert load_run(run).tokenizer.name == "bytes"


def test_other_peoples_files_in_a_run_stay_and_do_not_stop_it(run, made, corpus):
    others = [
        ".DS_Store", "notes.txt", "checkpoints/.DS_Store", "checkpoints/.nfs000123", "checkpoints/.mine/notes.txt",
        "checkpoints/notes.txt", "checkpoints/mine/notes.txt", "checkpoints/.12.backup/notes.txt", "checkpoints/012/x",
    ]  # fmt: skip
    for name in others:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    ours = run / "checkpoints" / ".16.abcdefgh.litmus-tmp"
    shutil.copytree(run / "checkpoints" / "12", ours)
    result, _ = go_on(run, corpus)
    assert result.evaluation == read_result(made / "whole").evaluation
    assert all((run / name).read_text() == name for name in others)
    assert not ours.exists()


def test_a_checkpoint_under_another_name_is_not_taken_for_that_step(run, made, corpus):
    shutil.copytree(run / "checkpoints" / "12", run / "checkpoints" / "16")
    result, notes = go_on(run, corpus)
    assert any("checkpoint 16 is damaged (it is of step 12)" in note for note in notes)
    assert result.evaluation == read_result(made / "whole").evaluation


def test_a_damaged_checkpoint_with_somebodys_file_in_it_is_not_removed(run, corpus):
    shutil.copytree(run / "checkpoints" / "12", run / "checkpoints" / "16")
    (run / "checkpoints" / "16" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"checkpoints/16 is damaged, and notes.txt was added to it; move it away"):
        go_on(run, corpus)
    assert (run / "checkpoints" / "16" / "notes.txt").read_text() == "mine"


def test_a_run_that_never_took_a_step_gives_way_to_another_training(tmp_path, corpus):
    with pytest.raises(Failed, match="its audit found something"):
        go_on(tmp_path / "run", corpus, gate=stopped, context=12)
    assert (tmp_path / "run" / "run.yaml").exists()
    go_on(tmp_path / "run", corpus, budget="1 step")
    assert load_run(tmp_path / "run").step == 1


@pytest.mark.parametrize("name", ["notes.txt", "recipe.yaml", "run.yaml", "tokenizer/tokenizer.json"])
def test_but_not_if_somebody_wrote_in_it(name, tmp_path, corpus):
    with pytest.raises(Failed, match="its audit found something"):
        go_on(tmp_path / "run", corpus, gate=stopped, context=12)
    with (tmp_path / "run" / name).open("a") as file:
        file.write("\n# mine\n")
    before = contents(tmp_path / "run")
    with pytest.raises(BadInput, match=r"belongs to a run with training\.context"):
        go_on(tmp_path / "run", corpus, budget="1 step")
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_can_be_trained_in(there, tmp_path, corpus):
    (tmp_path / "link").symlink_to("elsewhere")
    if there:
        (tmp_path / "elsewhere").mkdir()
    go_on(tmp_path / "link", corpus, budget="1 step")
    assert (tmp_path / "link").is_symlink()
    assert load_run(str(tmp_path / "elsewhere")).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "link"]


def test_a_kill_while_a_run_is_made_leaves_what_the_same_command_makes_whole(tmp_path, corpus, monkeypatch):
    """Every write of the opening is the last one, in turn."""
    from litmus.training.run import folder as opening

    class Killed(BaseException):
        pass

    plain, writes = opening.write_atomically, 0

    def write(target, content):
        nonlocal writes
        if writes == limit:
            (target.parent).mkdir(exist_ok=True)
            (target.parent / f".{target.name}.abcdefgh.litmus-tmp").write_bytes(b"half")
            raise Killed
        writes += 1
        plain(target, content)

    for limit in range(3):
        writes = 0
        folder = tmp_path / str(limit)
        with monkeypatch.context() as patch:
            patch.setattr(opening, "write_atomically", write)
            with pytest.raises(Killed):
                go_on(folder, corpus, budget="1 step")
        _, notes = go_on(folder, corpus, budget="1 step")
        assert not any("damaged" in note for note in notes)
        assert load_run(folder).step == 1
        assert sorted(path.name for path in folder.iterdir()) == [
            "checkpoints", "metrics.jsonl", "recipe.yaml", "result.json", "run.yaml", "tokenizer",
        ]  # fmt: skip
