"""Every file in examples/: short, built, decoded through its cache, passed by the quick audit, and compared."""

from __future__ import annotations

import html
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import litmus
from litmus.auditing import AuditReport
from litmus.comparison.plan import resolve_arms
from litmus.comparison.report.formatting import verdict_sentence
from litmus.data import DataSettings
from litmus.model import resolve
from litmus.nn import Batch
from litmus.training import TrainSettings

FOLDER = Path(__file__).parents[2] / "examples"
FILES = sorted(FOLDER.glob("*.py"))
SIZE = {"dim": 32, "depth": 3, "heads": 4}
SMALL = {**SIZE, "vocab_size": 61, "context": 40}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def example(request):
    return request.param


def test_the_gallery_is_whole_and_each_file_short():
    assert len(FILES) >= 12
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 60 for path in FILES)


@torch.no_grad()
def test_it_decodes_ragged_rows_and_packed_documents_as_if_alone(example, rough):
    model = rough(litmus.build(example, **SMALL)).eval()
    tokens = torch.randint(61, (2, 12))
    full = model(tokens)
    cache = model.new_cache(2, 20)
    real = torch.tensor([[True] * 6, [False] * 5 + [True]])  # the second row has one token, padded on the left
    model(Batch(tokens[:, :6], padding_mask=real), cache)
    second = torch.cat((tokens[1, 5:6], tokens[1, 1:4]))[None]
    for step in range(3):
        logits = model(torch.stack((tokens[0, 6 + step], second[0, 1 + step]))[:, None], cache)
        assert_close(logits[0, 0], full[0, 6 + step])
        assert_close(logits[1, 0], model(second)[0, 1 + step])
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 1 + [1] * 11])
    packed = model(Batch(tokens, document_ids=documents))
    assert_close(packed[0], torch.cat((model(tokens[:1, :5]), model(tokens[:1, 5:])), dim=1)[0])
    assert_close(packed[1], torch.cat((model(tokens[1:, :1]), model(tokens[1:, 1:])), dim=1)[0])


@pytest.fixture(scope="session")
def arms():
    """The recipes of a comparison of all examples with the baseline, by name."""
    return resolve_arms(["standard", *FILES], size=None, context=40, vocab_size=257, overrides=SIZE)


@pytest.fixture(scope="session")
def audited(arms, tmp_path_factory):
    """audited(name) -> the quick audit of an arm, kept for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    kept = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "audits of examples"

    def audit(name):
        report = AuditReport.load(kept / name, arms[name])
        if report is None:
            report = litmus.audit(arms[name], quick=True)
            report.save(kept / name, arms[name])
        return report, kept / name

    return audit


@pytest.mark.slow
def test_it_passes_the_quick_audit(example, audited):
    report, _ = audited(example.stem)
    assert {finding.name: finding.detail for finding in report.failed} == {}
    recomputes = "decodes by recomputation of the whole prefix" in report["cache parity"].detail
    assert recomputes == (example.stem == "moving_average")


@pytest.mark.slow
def test_a_comparison_of_all_scores_each_for_every_seed_and_judges_it(arms, audited, tmp_path, monkeypatch):
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "notes.txt").write_text("".join(f"Line {n} says that {n} + {n} = {2 * n}.\n" for n in range(600)))
    for name in arms:
        shutil.copytree(audited(name)[1], tmp_path / "runs" / "gallery" / "audits" / name)
    training = TrainSettings(
        budget="2 steps", batch=2, context=40, lr=0.01, precision="fp32", threads=1, validate_tokens=80,
        evaluate_tokens=80,
    )  # fmt: skip
    found = litmus.compare(
        ["standard", *FILES], data=DataSettings(corpus=str(tmp_path / "notes.txt"), tokenizer="bytes"), seeds=2,
        training=training, size=None, overrides=SIZE, noise=False, jobs=2, name="gallery", runs=tmp_path / "runs",
    )  # fmt: skip
    assert found.result.arm_notes == {}
    assert {trial.arm for trial in found.result.trials} == set(arms) == {"standard", *(path.stem for path in FILES)}
    for name in arms:
        trials = found.result.trials_of(name)
        assert [(trial.seed, trial.failed) for trial in trials] == [(0, None), (1, None)], name
        assert all(math.isfinite(trial.bits_per_byte) and trial.run.steps == 2 for trial in trials), name
    assert [verdict.arm for verdict in found.verdicts] == [name for name in arms if name != "standard"]
    for verdict in found.verdicts:
        scores = [trial.bits_per_byte for trial in found.result.trials_of(verdict.arm)]
        baseline = [trial.bits_per_byte for trial in found.result.trials_of("standard")]
        assert verdict.difference.mean == pytest.approx(sum(scores) / 2 - sum(baseline) / 2, abs=1e-9)
        assert math.isfinite(verdict.difference.half)
        assert verdict.word in ("better", "worse", "no difference shown")
    page = html.unescape(found.report.read_text(encoding="utf-8"))
    assert [verdict.arm for verdict in found.verdicts if verdict_sentence(verdict) not in page] == []


def test_the_gallery_says_what_each_file_shows():
    rows = []
    for path in FILES:
        recipe, text = resolve(path), path.read_text(encoding="utf-8")
        paper = re.search(r"arXiv (\d{4}\.\d{5})", text)
        source = f"[{paper[1]}](https://arxiv.org/abs/{paper[1]})" if paper else "·"
        declared = text[text.rindex("recipe = {") :]
        keys = re.findall(
            r'"(mixer|feedforward|norm|block|positions|embedding|head|objective|layers|router)":', declared
        )
        parts = ", ".join(f"`{key}`" for key in dict.fromkeys(keys))
        rows.append(f"| [{path.name}]({path.name}) | {recipe.about} | {parts} | {source} |")
    assert "\n".join(rows) in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_saved_model_of_a_class_is_loaded_in_another_process(tmp_path):
    model = litmus.build(FILES[0].parent / "sine.py", **SMALL).eval()
    litmus.save(model, tmp_path / "model")
    code = (
        "import litmus, sys; print(float(litmus.load(sys.argv[1]).eval()(__import__('torch').tensor([[5, 7]])).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(model(torch.tensor([[5, 7]])).sum()), rel=1e-4)


def test_it_is_the_same_model_when_saved_and_loaded(example, tmp_path):
    model = litmus.build(example, **SMALL).eval()
    litmus.save(model, tmp_path / "model")
    tokens = torch.randint(61, (1, 8))
    assert_close(litmus.load(tmp_path / "model").eval()(tokens), model(tokens))
