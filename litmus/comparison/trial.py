"""One trial: one training of one arm in a process of its own, from a stored TrialSpec to a stored TrialResult.

`main` is the process: its arguments are the trial's folder and, if the parent has run the plug-in's code,
--trust-plugin. It reports progress to the parent as lines of JSON on stdout. When the parent ends, the trial's stdin
closes; the trial then saves a checkpoint and exits.
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, field_validator

from litmus import process
from litmus.auditing import AuditReport
from litmus.comparison.results import Role, TrialResult, read_record
from litmus.data import DataSettings
from litmus.errors import BadInput, Failed
from litmus.files import folder_written_atomically, read_regular_file, write_atomically
from litmus.generation import sample_text
from litmus.locks import folder_lock
from litmus.model import Recipe, cache_bytes_per_token, training_flops_per_token
from litmus.model.costs import meta_model
from litmus.model.plugins import plugin_faults
from litmus.model.recipe import current_keys
from litmus.model.storage import recipe_from
from litmus.names import folder_safe
from litmus.probes.data import token_data
from litmus.training import TrainSettings
from litmus.training.display import Display, Status
from litmus.training.evaluation import Evaluation
from litmus.training.run.result import RunResult
from litmus.training.trainer import train_run

SPEC, OUTCOME, RUN = "trial.json", "outcome.json", "run"
AUDITS = "audits"
"""The folder of the arms' audits in the comparison's folder."""

TRUST = "--trust-plugin"

METHOD = 2
"""Version of how a trial starts and is scored; trials of different versions are not comparable.

2: every part of a model starts from its own random stream, and a limited score is over windows from the whole held-out
text. 1: one stream, and the first tokens.
"""

GRACE_SECONDS = 60.0
"""Time for a trial that was asked to stop to finish its step and save, before it is killed."""


class TrialSpec(BaseModel):
    """All that defines one trial; trials with equal specs are the same trial and run once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    role: Role
    recipe: dict[str, Any]
    data: DataSettings
    data_fingerprint: str
    training: TrainSettings
    prompt: str
    method: int = 1

    @field_validator("recipe")
    @classmethod
    def _read_older_keys(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        return current_keys(recipe)

    @property
    def seed(self) -> int:
        """The seed of the data order, by which trials are paired."""
        return self.training.order_seed

    @property
    def subfolder(self) -> str:
        """The trial's folder within its comparison's folder, different for every trial."""
        return _subfolder(self.role, self.arm, self.seed, self.training.lr)


def trial_run(trial: TrialResult) -> str:
    """The run folder of a finished trial within its comparison's folder."""
    return f"{_subfolder(trial.role, trial.arm, trial.seed, trial.lr)}/{RUN}"


def _subfolder(role: Role, arm: str, seed: int, lr: float) -> str:
    path = f"trials/{role}/{folder_safe(arm)}/seed-{seed}"
    return f"{path}/lr-{lr:.3g}" if role == "sweep" else path


def stored_result(spec: TrialSpec, comparison: Path) -> TrialResult | None:
    """The stored result of a trial; None if it did not finish or if a file is damaged."""
    folder = comparison / spec.subfolder
    stored = read_record(folder / SPEC, TrialSpec)
    if stored is None:
        return None
    if stored.model_dump_json() != spec.model_dump_json():
        raise BadInput(f"{folder} holds a trial with other settings; choose another --name, or delete that folder")
    result = read_record(folder / OUTCOME, TrialResult)
    identity = None if result is None else (result.arm, result.role, result.seed, result.lr)
    return result if identity == (spec.arm, spec.role, spec.seed, spec.training.lr) else None


def adopt(spec: TrialSpec, comparison: Path) -> None:
    """Take over a finished trial with the same spec from another comparison in the same folder of runs.

    Its files are linked where the file system can, and copied elsewhere; a finished trial's files do not change.
    """
    own = comparison / spec.subfolder
    if (own / SPEC).exists():
        return
    for other in sorted(comparison.parent.glob(f"*/{glob.escape(spec.subfolder)}")):
        stored = read_record(other / SPEC, TrialSpec)
        if stored == spec and stored_result(spec, comparison.parent / other.relative_to(comparison.parent).parts[0]):
            with folder_written_atomically(own) as made:
                shutil.copytree(other, made, symlinks=True, copy_function=_link, dirs_exist_ok=True)
            return


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def run_trial(folder: Path, display: Display | None = None, *, trust_plugin: bool = False) -> TrialResult:
    """Train, or resume, the trial whose spec is in `folder`, and write its outcome; a diverged training is one."""
    spec = TrialSpec.model_validate_json(read_regular_file(folder / SPEC))
    recipe = recipe_from(spec.recipe, folder, trust_plugin=trust_plugin)
    data = token_data(spec.data)
    found = data.fingerprint
    if found != spec.data_fingerprint:
        raise BadInput(
            f"the corpus {spec.data.corpus!r} has changed since this comparison was planned (fingerprint {found[:12]}, "
            f"was {spec.data_fingerprint[:12]}); give the command again to compare on the new text"
        )
    display = display or Display()
    audits = folder.parents[len(Path(spec.subfolder).parts) - 1] / AUDITS

    def copy_audit(recipe: Recipe, run: Path) -> None:
        if (report := AuditReport.load(audits / folder_safe(spec.arm), recipe)) is not None:
            report.save(run, recipe)

    with folder_lock(folder, "training in", on_wait=display.log):  # an interrupted trial may still be saving
        failed = None
        try:
            run = train_run(
                recipe,
                spec.data,
                spec.training,
                folder / RUN,
                gate=copy_audit,
                sample=None if data.examples else lambda model, tokenizer: sample_text(model, tokenizer, spec.prompt),
                display=display,
                data=data,
            )
        except Failed as failure:
            run, failed = _unscored(recipe), str(failure)
        outcome = TrialResult(arm=spec.arm, seed=spec.seed, lr=spec.training.lr, role=spec.role, run=run, failed=failed)
        write_atomically(folder / OUTCOME, outcome.model_dump_json(indent=1))
    return outcome


def _unscored(recipe: Recipe) -> RunResult:
    """The result of a failed run: only the costs that follow from the recipe are known."""
    with plugin_faults(recipe, "counting the parameters of"):
        model = meta_model(recipe)
        flops, cache_bytes = training_flops_per_token(recipe), cache_bytes_per_token(model)
    counts = model.parameter_counts()
    return RunResult(
        evaluation=Evaluation(
            nats_per_token=math.nan, bits_per_byte=math.nan, perplexity=math.nan, tokens=0, bytes=0, loss_by_position=[]
        ),
        steps=0,
        tokens=0,
        train_seconds=math.nan,
        tokens_per_second=math.nan,
        peak_memory_bytes=0,
        parameters=counts["total"],
        parameters_non_embedding=counts["non_embedding"],
        parameters_active=counts["active"],
        flops_per_token=flops,
        scored_share=model.objective.scored_share,
        cache_bytes_per_token=cache_bytes,
        precision=None,
        curve=[],
        sample="",
    )


class _PipeDisplay(Display):
    """Sends the progress of the training to the parent process."""

    def __init__(self, parent: TextIO) -> None:
        self._parent = parent

    def step(self, status: Status) -> None:
        self.send(fraction=status.fraction, loss=status.loss)

    def log(self, text: str) -> None:
        self.send(note=text)

    def send(self, **event: object) -> None:
        """Write one line; ignored if the parent has ended, as this process will then be stopped."""
        with contextlib.suppress(OSError):
            print(json.dumps(event), file=self._parent, flush=True)


def main() -> None:
    """Run the trial in the folder given on the command line; an error is sent to the parent as one sentence.

    Output of a plug-in goes to stderr, as stdout is the pipe to the parent.
    """
    process.begin()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    display = _PipeDisplay(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def work() -> None:
        try:
            run_trial(Path(sys.argv[1]), display, trust_plugin=TRUST in sys.argv[2:])
        except Exception as error:
            display.send(error=process.describe_error(error)[0])
            raise

    process.end(process.run(work, prefix=""))


def _end_with_parent() -> None:
    """Wait until the parent's end of stdin closes, which happens however the parent ends; then stop as on Ctrl-C."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
