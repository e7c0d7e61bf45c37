"""One trial: one training of one arm in a process of its own, from a spec on disk to a TrialResult beside it.

Run as `python -m litmus.comparison.trial FOLDER`. The process tells its parent how far it is by lines of JSON.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from litmus import process
from litmus.comparison.results import Role, TrialResult
from litmus.data import DataSettings
from litmus.errors import BadInput, Failed
from litmus.files import write_atomically
from litmus.generation import sample_text
from litmus.model import Decoder, Recipe, cache_bytes_per_token, training_flops_per_token
from litmus.model.storage import recipe_from
from litmus.training import Display, RunResult, TrainSettings, train
from litmus.training.progress import Status

SPEC, OUTCOME, RUN = "trial.json", "outcome.json", "run"


class TrialSpec(BaseModel):
    """All that one trial needs to know; equal specs are the same trial and are never run twice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    role: Role
    recipe: dict[str, Any]
    data: DataSettings
    training: TrainSettings
    prompt: str

    @property
    def seed(self) -> int:
        """The seed that pairs trials: that of the data order."""
        return self.training.order_seed

    @property
    def place(self) -> str:
        """Where this trial lives in its comparison's folder; no two trials of a comparison share it."""
        place = f"trials/{self.role}/{self.arm}/seed-{self.seed}"
        return f"{place}/lr-{self.training.lr:.3g}" if self.role == "sweep" else place


def finished(spec: TrialSpec, comparison: Path) -> TrialResult | None:
    """The result of a trial that already ran, None if it did not finish."""
    folder = comparison / spec.place
    if not (folder / OUTCOME).is_file():
        return None
    if (folder / SPEC).read_text(encoding="utf-8") != spec.model_dump_json(indent=1):
        raise BadInput(f"{folder} holds a trial with other settings; choose another --name, or delete that folder")
    return TrialResult.model_validate_json((folder / OUTCOME).read_text(encoding="utf-8"))


def run_trial(folder: Path) -> TrialResult:
    """Train what the spec in `folder` says (or resume it) and write the outcome; a diverged training is an outcome."""
    spec = TrialSpec.model_validate_json((folder / SPEC).read_text(encoding="utf-8"))
    recipe = recipe_from(spec.recipe, folder)
    try:
        run = train(
            recipe,
            spec.data,
            spec.training,
            folder / RUN,
            sample=lambda model, tokenizer: sample_text(model, tokenizer, spec.prompt),
            display=_Reporter(),
        )
        outcome = _result(spec, run)
    except Failed as failure:
        outcome = _failure(spec, recipe, str(failure))
    write_atomically(folder / OUTCOME, outcome.model_dump_json(indent=1))
    return outcome


class _Reporter(Display):
    """Tells the parent process how far the trial is."""

    def step(self, status: Status) -> None:
        self._say(share=status.share, loss=status.loss)

    def note(self, text: str) -> None:
        self._say(note=text)

    def _say(self, **figures: object) -> None:
        print(json.dumps(figures), flush=True)


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
    with torch.device("meta"):
        model = Decoder(recipe)
    counts = model.parameter_counts()
    return TrialResult(
        arm=spec.arm,
        seed=spec.seed,
        lr=spec.training.lr,
        role=spec.role,
        parameters=counts["total"],
        parameters_non_embedding=counts["non_embedding"],
        parameters_active=counts["active"],
        flops_per_token=training_flops_per_token(recipe),
        cache_bytes_per_token=round(cache_bytes_per_token(model)),
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
    """Run the trial in the folder named on the command line; what goes wrong is one sentence on stderr."""

    def work() -> None:
        run_trial(Path(sys.argv[1]))

    process.begin()
    process.end(process.run(work, prefix=""))


if __name__ == "__main__":
    main()
