"""One trial: one training of one arm in a process of its own, from a spec on disk to a TrialResult next to it.

Run as `python -m litmus.comparison.trial FOLDER`, with --trust-plugin where the parent has run the plug-in's code.
The process tells its parent how far it is by lines of JSON on
stdout, and ends, saving what it has, when its parent is gone: its stdin then closes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict

from litmus import process
from litmus.audit import keep, kept_audit
from litmus.comparison.results import Role, TrialResult, stored
from litmus.data import DataSettings, prepare
from litmus.errors import BadInput, Failed
from litmus.files import read_regular_file, write_atomically
from litmus.generation import sample_text
from litmus.locks import folder_lock
from litmus.model import Recipe, cache_bytes_per_token, training_flops_per_token
from litmus.model.costs import meta_model
from litmus.model.plugins import plugin_faults
from litmus.model.storage import recipe_from
from litmus.names import folder_safe
from litmus.training import Display, RunResult, TrainSettings, train
from litmus.training.progress import Status

SPEC, OUTCOME, RUN = "trial.json", "outcome.json", "run"
AUDITS = "audits"
"""Where the comparison keeps the audit of each arm."""

TRUST = "--trust-plugin"

GRACE = 60.0
"""Seconds in which a trial that was asked to stop may end its step and save, before it is killed."""


class TrialSpec(BaseModel):
    """All that one trial needs to know; equal specs are the same trial and are never run twice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    role: Role
    recipe: dict[str, Any]
    data: DataSettings
    data_fingerprint: str
    training: TrainSettings
    prompt: str

    @property
    def seed(self) -> int:
        """The seed that pairs trials: that of the data order."""
        return self.training.order_seed

    @property
    def place(self) -> str:
        """Where this trial lives in its comparison's folder; no two trials of a comparison share it."""
        place = f"trials/{self.role}/{folder_safe(self.arm)}/seed-{self.seed}"
        return f"{place}/lr-{self.training.lr:.3g}" if self.role == "sweep" else place


def finished(spec: TrialSpec, comparison: Path) -> TrialResult | None:
    """The result of a trial that already ran; None if it did not finish, or if what it left is damaged."""
    folder = comparison / spec.place
    there = stored(folder / SPEC, TrialSpec)
    if there is None:
        return None
    if there.model_dump_json() != spec.model_dump_json():
        raise BadInput(f"{folder} holds a trial with other settings; choose another --name, or delete that folder")
    result = stored(folder / OUTCOME, TrialResult)
    whose = None if result is None else (result.arm, result.role, result.seed, result.lr)
    return result if whose == (spec.arm, spec.role, spec.seed, spec.training.lr) else None


def run_trial(folder: Path, display: Display | None = None, *, trust_plugin: bool = False) -> TrialResult:
    """Train what the spec in `folder` says (or resume it) and write the outcome; a diverged training is an outcome."""
    spec = TrialSpec.model_validate_json(read_regular_file(folder / SPEC))
    recipe = recipe_from(spec.recipe, folder, trust_plugin=trust_plugin)
    found = prepare(spec.data).fingerprint
    if found != spec.data_fingerprint:
        raise BadInput(
            f"the corpus {spec.data.corpus!r} has changed since this comparison was planned (fingerprint {found[:12]}, "
            f"was {spec.data_fingerprint[:12]}); give the command again, and a comparison on the new text is made"
        )
    display = display or Display()
    audits = folder.parents[len(Path(spec.place).parts) - 1] / AUDITS

    def gate(recipe: Recipe, run: Path) -> None:
        """Give the run its audit before it is trained."""
        if (report := kept_audit(audits / folder_safe(spec.arm), recipe)) is not None:
            keep(run, report, recipe)

    with folder_lock(folder, "training in", on_wait=display.note):  # an interrupted trial may still be saving
        try:
            run = train(
                recipe,
                spec.data,
                spec.training,
                folder / RUN,
                gate=gate,
                sample=lambda model, tokenizer: sample_text(model, tokenizer, spec.prompt),
                display=display,
            )
            outcome = _result(spec, run)
        except Failed as failure:
            outcome = _failure(spec, recipe, str(failure))
        write_atomically(folder / OUTCOME, outcome.model_dump_json(indent=1))
    return outcome


class _Reporter(Display):
    """Tells the parent process how far the trial is."""

    def __init__(self, parent: TextIO) -> None:
        self._parent = parent

    def step(self, status: Status) -> None:
        self.say(share=status.share, loss=status.loss)

    def note(self, text: str) -> None:
        self.say(note=text)

    def say(self, **figures: object) -> None:
        """Send one line; where the parent is gone, the process is about to be ended and saves what it has."""
        with contextlib.suppress(OSError):
            print(json.dumps(figures), file=self._parent, flush=True)


def _result(spec: TrialSpec, run: RunResult) -> TrialResult:
    score = run.evaluation
    return TrialResult(
        arm=spec.arm,
        seed=spec.seed,
        lr=spec.training.lr,
        role=spec.role,
        **run.model_dump(
            include={
                "parameters",
                "parameters_non_embedding",
                "parameters_active",
                "flops_per_token",
                "scored_share",
                "tokens",
                "steps",
                "train_seconds",
                "tokens_per_second",
                "peak_memory_bytes",
                "curve",
                "sample",
            }
        ),
        cache_bytes_per_token=round(run.cache_bytes_per_token),
        nats_per_token=score.nats_per_token,
        bits_per_byte=score.bits_per_byte,
        perplexity=score.perplexity,
        held_out_tokens=score.tokens,
        held_out_bytes=score.bytes,
        loss_by_position=score.loss_by_position,
        attention_entropy=score.attention_entropy,
        layer_figures=score.layer_figures,
        routing=score.routing,
    )


def _failure(spec: TrialSpec, recipe: Recipe, reason: str) -> TrialResult:
    """A trial without a score: only what the recipe itself tells is filled in."""
    with plugin_faults(recipe, "counting the parameters of"):
        model = meta_model(recipe)
        flops, cached = training_flops_per_token(recipe), round(cache_bytes_per_token(model))
    counts = model.parameter_counts()
    return TrialResult(
        arm=spec.arm,
        seed=spec.seed,
        lr=spec.training.lr,
        role=spec.role,
        parameters=counts["total"],
        parameters_non_embedding=counts["non_embedding"],
        parameters_active=counts["active"],
        flops_per_token=flops,
        cache_bytes_per_token=cached,
        scored_share=model.objective.scored_share,
        tokens=0,
        steps=0,
        train_seconds=math.nan,
        tokens_per_second=math.nan,
        peak_memory_bytes=0,
        nats_per_token=math.nan,
        bits_per_byte=math.nan,
        perplexity=math.nan,
        held_out_tokens=0,
        held_out_bytes=0,
        loss_by_position=[],
        attention_entropy=None,
        curve=[],
        sample="",
        failed=reason,
    )


def main() -> None:
    """Run the trial in the folder named on the command line; what goes wrong is told to the parent in one sentence.

    What a plug-in prints goes to stderr, as stdout is for the parent.
    """
    process.begin()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reporter = _Reporter(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def work() -> None:
        try:
            run_trial(Path(sys.argv[1]), reporter, trust_plugin=TRUST in sys.argv[2:])
        except Exception as error:
            reporter.say(fault=process.describe_error(error)[0])
            raise

    process.end(process.run(work, prefix=""))


def _end_with_parent() -> None:
    """Wait until the parent's end of stdin closes, which it does however the parent ends; then stop as on Ctrl-C."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
