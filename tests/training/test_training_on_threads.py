"""Training on threads: the loss is over target tokens alone, and the run knows its chat template."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import litmus
from litmus.auditing.checks.causality import effects_of_documents
from litmus.cli.app import app
from litmus.data import TokenData, data_settings_from, prepare
from litmus.data.chat.batches import WindowSampler, fill, pack
from litmus.data.chat.template import template_of
from litmus.data.sampler import PackedBatch
from litmus.errors import BadInput
from litmus.model import Decoder, build
from litmus.nn import Batch
from litmus.training import TrainSettings
from litmus.training.evaluation import evaluate, held_out_text
from litmus.training.run.loading import data_to_continue, load_run
from litmus.training.settings import settings_from
from litmus.training.train_step import TrainStep
from litmus.training.trainer import train_run

CONTEXT = 96
QUICK = {"budget": "8 steps", "batch": 4, "context": CONTEXT, "precision": "fp32", "threads": 1, "validate_every": 4}
WORDS = ["red", "green", "blue", "one", "two", "six", "cat", "dog", "bird"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten threads of eight short messages."""
    path = tmp_path_factory.mktemp("source") / "threads.jsonl"
    rows = [
        {
            "thread": f"t{thread}",
            "time": f"2024-01-{thread + 1:02} 08:{number:02}",
            "author": ("Ann", "Bob", "Cyd")[(thread + number) % 3],
            "text": f"{WORDS[(2 * thread + number) % 9]} {WORDS[(thread + number * number) % 9]} {thread}",
        }
        for thread in range(10)
        for number in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"threads:{path}"


@pytest.fixture
def threads(source: str) -> TokenData:
    return prepare(data_settings_from({"corpus": source, "tokenizer": "bytes"}).for_context(CONTEXT))


def train(source: str, folder: Path, recipe: dict[str, Any], **settings: Any) -> Any:
    options = data_settings_from({"corpus": source, "tokenizer": "bytes"})
    return train_run(recipe, options, TrainSettings(**{**QUICK, **settings}), folder)


def test_a_run_on_threads_scores_their_targets_and_keeps_their_template(
    source: str, threads: TokenData, recipe: dict[str, Any], tmp_path: Path
) -> None:
    result = train(source, tmp_path / "run", {**recipe, "context": CONTEXT})
    assert threads.windows is not None
    held_out = threads.windows["held_out"]
    assert result.evaluation.tokens == held_out.scored.sum()
    assert result.evaluation.bytes == result.evaluation.tokens - len(held_out), "an end has no bytes"
    assert len(result.evaluation.loss_by_position) <= int(held_out.lengths.max())
    run = load_run(tmp_path / "run")
    template = template_of(run.folder, run.tokenizer)
    assert template is not None and template.source == threads.chat_template
    assert run.config.data.chat is not None and run.config.data.chat.max_tokens == CONTEXT
    assert litmus.evaluate(tmp_path / "run").nats_per_token == pytest.approx(result.evaluation.nats_per_token)
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    options = ["--replies", "4", "--toxic-words", str(tmp_path / "words.txt"), "--device", "cpu", "--json"]
    shown = CliRunner().invoke(app, ["eval", str(tmp_path / "run"), *options])
    assert shown.exit_code == 0, shown.exception
    found = json.loads(shown.stdout)
    assert found["threads"]["threads"] == 3 and len(found["replies"]["samples"]) == 4
    assert found["threads"]["running"]["3"] == pytest.approx(math.exp(found["nats_per_token"]))
    assert found["replies"]["said_stats"]["toxic"] == 1, "every message holds one of the words"
    sample = found["replies"]["samples"][0]
    assert [line.split(":")[0] for line in sample["context"].splitlines()][-1] in ("Ann", "Bob", "Cyd")
    assert len(sample["context"].splitlines()) == 5 and sample["context"].endswith(":")
    for given, sentence in ((["--replies", "4"], "holds no words"), ([], "give --replies N, too")):
        (tmp_path / "words.txt").write_text("\n")
        shown = CliRunner().invoke(
            app, ["eval", str(tmp_path / "run"), *given, "--toxic-words", str(tmp_path / "words.txt")]
        )
        assert isinstance(shown.exception, BadInput) and sentence in str(shown.exception)
    again = train(source, tmp_path / "run", {**recipe, "context": CONTEXT})
    assert again.evaluation == result.evaluation, "a finished run is returned as it is"


def test_a_stopped_training_on_threads_goes_on_as_if_it_had_not_stopped(
    source: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    whole = train(source, tmp_path / "whole", {**recipe, "context": CONTEXT}, schedule="constant")
    train(source, tmp_path / "parts", {**recipe, "context": CONTEXT}, schedule="constant", budget="4 steps")
    parts = train(source, tmp_path / "parts", {**recipe, "context": CONTEXT}, schedule="constant")
    assert parts.evaluation.nats_per_token == whole.evaluation.nats_per_token


def test_the_score_is_the_mean_over_all_targets_and_not_over_replies(threads: TokenData, rough: Any) -> None:
    model = rough(build("standard", size="tiny", vocab_size=257, overrides={"context": CONTEXT, "dropout": 0.0}))
    assert threads.windows is not None
    windows = threads.windows["held_out"]
    total, count = 0.0, 0
    at_ends, elsewhere = [], []
    for number in range(len(windows)):
        ids, scored = (torch.from_numpy(part.astype("int64")) for part in windows.window(number))
        log_p = model.eval()(ids[None, :-1])[0].log_softmax(-1)
        nats = -log_p.gather(1, ids[1:, None])[:, 0]
        p_end = log_p[:, 256].detach().exp()
        at_ends.append(float(p_end[-1]))
        elsewhere += p_end[scored[1:].bool()][:-1].tolist()
        total, count = total + float(nats[scored[1:].bool()].detach().sum()), count + int(scored.sum())
    found = evaluate(model, threads, context=CONTEXT, batch=3)
    assert (found.tokens, found.nats_per_token) == (count, pytest.approx(total / count, rel=1e-9))
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-9)
    ends = found.threads
    assert ends is not None and ends.ends == len(windows) and ends.threads == 3
    assert ends.end_probability == pytest.approx(sum(at_ends) / len(at_ends))
    assert ends.false_end_probability == pytest.approx(sum(elsewhere) / len(elsewhere))
    assert ends.perplexity_low < found.perplexity < ends.perplexity_high


@pytest.mark.parametrize("name", ["standard", "mtp", "moe", "roleplay"])
def test_the_gradient_of_a_step_is_the_same_however_its_threads_are_split(
    name: str, threads: TokenData, rough: Callable[..., Decoder]
) -> None:
    overrides = {"dim": 16, "depth": 2, "heads": 2, "context": CONTEXT, "dropout": 0.0}
    model = rough(build(name, size="tiny", vocab_size=257, overrides=overrides))
    step = TrainStep(model, TrainSettings(), "fp32", 256)
    assert threads.windows is not None
    whole = WindowSampler(threads.windows["train"], context=CONTEXT, batch=6, seed=0).batch(0)
    found = []
    for split in ([range(6)], [range(1), range(1, 4), range(4, 6)], [range(5), range(5, 6)]):
        for parameter in step.weights.named.values():
            parameter.grad = None
        parts = [
            PackedBatch(whole.inputs[list(r)], whole.targets[list(r)], list(r), whole.documents[list(r)]) for r in split
        ]
        losses = step.accumulate(parts)
        found.append((losses, {key: value.clone() for key, value in step.weights.gradients().items()}))
    for losses, gradients in found[1:]:
        torch.testing.assert_close(losses, found[0][0])
        torch.testing.assert_close(gradients, found[0][1])


HEADS: dict[str, Any] = {
    "standard": {},
    "mtp": {},
    "mtp_parallel": {"objective": {"kind": "mtp_parallel", "depth": 2}},
    "roleplay": {},
}


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_the_same_if_the_head_skips_what_is_not_scored(
    name: str, threads: TokenData, rough: Callable[..., Decoder]
) -> None:
    overrides = {"dim": 16, "depth": 2, "heads": 2, "context": CONTEXT, "dropout": 0.0, **HEADS[name]}
    model = rough(build("standard" if HEADS[name] else name, size="tiny", vocab_size=257, overrides=overrides))
    assert threads.windows is not None
    windows = threads.windows["train"]
    packing = pack(windows.lengths, CONTEXT)
    rows = fill(windows, [packing.row(0), packing.row(1)], CONTEXT)
    batch = Batch(rows.inputs, rows.targets, rows.document_ids)
    scored = int((rows.targets != -100).sum())
    results = []
    for most in (None, scored, scored + 5):
        model.zero_grad()
        loss = model.loss(replace(batch, max_scored=most))
        loss.total.backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        results.append(
            (loss.total.detach(), loss.parts, gradients, model.token_losses(replace(batch, max_scored=most)))
        )
    for found in results[1:]:
        torch.testing.assert_close(found, results[0])


def test_a_run_on_text_is_trained_further_on_threads_with_its_own_tokenizer(
    source: str, corpus: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    text = data_settings_from({"corpus": corpus, "tokenizer": "bpe-270"})
    train_run({**recipe, "context": CONTEXT}, text, TrainSettings(**QUICK), tmp_path / "base")
    start = load_run(tmp_path / "base")
    further = data_to_continue(start, data_settings_from({"corpus": source}))
    train_run(start.model.recipe, further, TrainSettings(**QUICK), tmp_path / "tuned", start=start)
    run = load_run(tmp_path / "tuned")
    assert run.tokenizer.vocab_size == start.tokenizer.vocab_size
    assert run.config.start is not None and run.config.data.corpus == source
    template = template_of(run.folder, run.tokenizer)
    assert template is not None and run.tokenizer.eos_id in template.stops(run.tokenizer)[0]
    said: list[str] = []
    held_out_text(run, None, said.append)
    assert said == [], "its text is what it was trained on"


def test_what_does_not_go_together_with_threads_is_refused(
    source: str, threads: TokenData, recipe: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="windows of threads have no stride"):
        train(source, tmp_path / "run", {**recipe, "context": CONTEXT}, stride=4)
    model = build({**recipe, "context": CONTEXT}, vocab_size=257)
    with pytest.raises(BadInput, match="limit_bytes is for texts"):
        evaluate(model, threads, context=CONTEXT, batch=2, limit_bytes=100)


def test_a_checkpoint_is_written_after_each_pass_over_the_data(
    source: str, threads: TokenData, recipe: dict[str, Any], tmp_path: Path
) -> None:
    assert threads.windows is not None
    rows = len(pack(threads.windows["train"].lengths, CONTEXT))
    settings = {"budget": "9 steps", "batch": 8, "validate_every": 100, "checkpoint_every": "epoch", "keep_last": 9}
    train(source, tmp_path / "run", {**recipe, "context": CONTEXT}, **settings)
    ends = sorted({-(-rows * epoch // 8) for epoch in range(1, 72 // rows + 1)} | {9})
    assert len(ends) > 2
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == ends
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "val"] == ends, "so that the best can be chosen"
    with pytest.raises(BadInput, match="checkpoint_every: 'week' is not valid; a number of steps, 0 or more, or epoch"):
        settings_from({"checkpoint_every": "week"})


@pytest.mark.parametrize("isolated", [True, False])
def test_the_audit_of_packed_documents_holds_for_the_batches_of_a_training(
    threads: TokenData, rough: Any, recipe: dict[str, Any], isolated: bool
) -> None:
    """Positions, SSMax's n and the mask restart at each window, as the batches of a training say where they begin."""
    assert threads.windows is not None
    model = rough(build({**recipe, "base": "ssmax", "context": 3 * CONTEXT}, vocab_size=257)).eval()
    batch = WindowSampler(threads.windows["train"], context=3 * CONTEXT, batch=2, seed=0).batch(0)
    seen = model if isolated else lambda packed: model(replace(packed, document_ids=None))
    packed = Batch(batch.inputs, document_ids=batch.documents)
    assert batch.documents.max() >= 2, "a row holds several windows"
    effects = [float(effect.max()) for _, effect in effects_of_documents(seen, packed, (batch.inputs + 1) % 257)]
    assert (max(effects) == 0) == isolated
