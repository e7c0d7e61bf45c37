"""A comparison from start to end: equal terms, audits, a learning rate per arm, paired trials, verdicts, report."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group

from litmus.comparison.defaults import ARMS, CONTEXT, SEEDS, SIZE, TRAINING
from litmus.comparison.folder import REPORT, RESULT, TRIALS, held
from litmus.comparison.gate import audit_section, audited, marks, require_sound, require_workable, unworkable
from litmus.comparison.learning_rate import choose_learning_rate
from litmus.comparison.metrics import metric
from litmus.comparison.plan import Plan, arms_on_equal_terms, folder_name
from litmus.comparison.processes import run_all
from litmus.comparison.progress import Watch
from litmus.comparison.report import Section, save_report
from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.comparison.table import print_table, render
from litmus.comparison.trial import OUTCOME, TrialSpec
from litmus.comparison.verdicts import Verdict, judge
from litmus.comparison.wording import sentence
from litmus.data import DataSettings, TokenData, prepare
from litmus.data.windows import check_one_window
from litmus.errors import BadInput
from litmus.model import Source
from litmus.model.bounds import check_trained
from litmus.names import check_name
from litmus.runtime.device import pick_device
from litmus.runtime.hardware import hardware, versions
from litmus.runtime.memory import total_bytes
from litmus.runtime.precision import resolve_precision
from litmus.training import TrainSettings
from litmus.training.evaluation import check_scorable

MOST_SEEDS = 1000
MOST_JOBS, JOB_BYTES = 8, 2e9
"""Trials that run at the same time unless told otherwise: at most so many, and one for so much memory."""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison and the folder it lives in."""

    result: ComparisonResult
    folder: Path
    sections: tuple[Section, ...] = ()

    @property
    def verdicts(self) -> list[Verdict]:
        """One verdict per arm other than the baseline."""
        return judge(self.result)

    @property
    def report(self) -> Path:
        """Where the report page of this comparison is."""
        return self.folder / REPORT

    def table(self) -> Group:
        """The table of costs, scores and verdicts, for rich to print."""
        return render(self.result)

    def print(self) -> None:
        """Print the table; as plain text where the output is not a terminal."""
        print_table(self.result)

    def save_report(self, path: str | Path) -> Path:
        """Write the self-contained report page."""
        return save_report(self.result, path, self.sections)

    def to_json(self) -> str:
        """The verdicts, where the report is, and the whole result, as JSON."""
        verdicts = [
            {
                "arm": verdict.arm,
                "baseline": verdict.baseline,
                "metric": verdict.metric.name,
                "confidence": verdict.confidence,
                "word": verdict.word,
                "difference": None if verdict.difference is None else verdict.difference.mean,
                "interval": _interval(verdict),
                "noise_floor": verdict.noise_floor,
                "smallest_shown": verdict.smallest,
                "seeds_needed": verdict.seeds_needed,
                "sentence": sentence(verdict),
            }
            for verdict in self.verdicts
        ]
        whole = {
            "folder": str(self.folder),
            "report": str(self.report),
            "verdicts": verdicts,
            "result": json.loads(self.result.model_dump_json()),
        }
        return json.dumps(whole, indent=1)


def compare(
    arms: Sequence[Source] = ARMS,
    *,
    data: DataSettings | str | Path = "stdlib",
    training: TrainSettings = TRAINING,
    size: str | None = SIZE,
    overrides: Mapping[str, Any] | None = None,
    seeds: int = SEEDS,
    lr_sweep: bool = False,
    noise: bool = True,
    primary: str = "bpb",
    confidence: float = 0.95,
    jobs: int | None = None,
    keep_failed: bool = False,
    prompt: str = "",
    name: str | None = None,
    runs: str | Path = "runs",
    trust_plugin: bool = False,
    command: str | None = None,
    console: Console | None = None,
) -> Comparison:
    """Train `arms` (the first is the baseline) on equal terms over several seeds and judge the others against it.

    Every arm gets the same size (`size="own"`: each recipe's own), context, tokenizer, budget, data order and held-out
    tokens; with `lr_sweep` each gets its own best of three learning rates. `noise` trains the baseline once more per
    seed from another init, to measure how far it differs from itself. Every arm is audited first; one that fails is not
    trained, or with `keep_failed` trained and marked, and never scored. Trials are processes, `jobs` at a time (by
    default as many as there are CPU cores for, one on a GPU); the same call goes on where an interrupted one stopped
    and repeats no finished trial. `trust_plugin` runs code that a recipe file among the arms names, even if the user
    has never named it. Raises BadInput before anything is trained where it can, Failed when the audits leave nothing to
    compare.
    """
    console = console or Console(stderr=True)
    _check(seeds, jobs, primary, confidence)
    if name is not None:
        check_name(name, "a comparison's name")
    data = DataSettings(corpus=str(data)) if isinstance(data, str | Path) else data
    context = training.context or CONTEXT
    jobs, threads = workers(jobs, training)
    training = training.model_copy(update={"context": context, "threads": threads})
    terms: dict[str, Any] = {
        "size": size,
        "context": context,
        "overrides": overrides or {},
        "trust_plugin": trust_plugin,
    }
    arms_on_equal_terms(arms, **terms)  # a misspelt name is found before any text is read
    tokens = prepare(data, announce=lambda text: console.print(text, highlight=False, markup=False))
    recipes = arms_on_equal_terms(arms, **terms, vocab_size=tokens.tokenizer.vocab_size)
    for recipe in recipes.values():
        check_trained(recipe, training.batch, context)
    check_one_window(tokens.train, context, "train")
    check_scorable(tokens, context, (training.validate_tokens, training.evaluate_tokens))
    plan = Plan(recipes, data, tokens.fingerprint, training, seeds, noise, lr_sweep, prompt)
    folder = Path(runs) / (name or folder_name(plan))
    with held(folder, plan), _saying_what_is_kept(plan, folder):
        reports = audited(recipes, folder, console)
        if keep_failed:
            require_workable(plan.baseline, reports)
        else:
            require_sound(plan.baseline, reports)
        plan = replace(plan, skipped=frozenset(unworkable(reports) if keep_failed else marks(reports)))
        trials = _trained(plan, folder, jobs, console)
        result = ComparisonResult(
            name=folder.name,
            baseline=plan.baseline,
            arms=list(plan.arms),
            budget=training.budget,
            trials=trials,
            primary=primary,
            confidence=confidence,
            arm_notes=marks(reports),
            context={"command": command or _as_call(arms), **_circumstances(plan, tokens)},
        )
        result.save(folder / RESULT)
        comparison = Comparison(result, folder, (audit_section(reports),))
        comparison.save_report(comparison.report)
    return comparison


def workers(jobs: int | None, training: TrainSettings) -> tuple[int, int]:
    """How many trials run at the same time, and the CPU threads of each: together all cores, on a GPU one trial."""
    cores, device = torch.get_num_threads(), pick_device(training.device)
    if jobs is None and device.type != "cpu":
        jobs = 1
    if jobs is None:
        jobs = max(1, min(cores // (training.threads or 1), MOST_JOBS, int(total_bytes() // JOB_BYTES)))
    return jobs, training.threads or max(1, cores // jobs)


def _check(seeds: int, jobs: int | None, primary: str, confidence: float) -> None:
    """Everything that judging will need, checked before anything is read or trained."""
    metric(primary)
    if seeds < 2:
        raise BadInput(f"{seeds} seed cannot give a verdict, as it shows no spread; ask for --seeds 2 or more")
    if seeds > MOST_SEEDS:
        raise BadInput(f"{seeds} seeds are more than any verdict needs; ask for --seeds {MOST_SEEDS} or fewer")
    if jobs is not None and jobs < 1:
        raise BadInput(f"{jobs} jobs would run nothing; ask for --jobs 1 or more")
    if not 0.5 < confidence < 1:
        raise BadInput(f"confidence {confidence:g} cannot be had; a share above 0.5 and below 1 can, such as 0.95")


def _trained(plan: Plan, folder: Path, jobs: int, console: Console) -> list[TrialResult]:
    """The results of all trials: first of those that choose learning rates, then of those that are judged."""

    def results_of(specs: list[TrialSpec], title: str) -> list[TrialResult]:
        at_once = f", {min(jobs, len(specs))} at a time" if len(specs) > 1 else ""
        line = f"{len(specs)} {title} of {specs[0].training.budget}{at_once}, in {folder}; Ctrl-C keeps what is done"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        with Watch(console, title, specs) as watch:
            return run_all(specs, folder, jobs=jobs, listen=watch.heard)

    swept = results_of(plan.sweep(), "trials of learning rates") if plan.lr_sweep else []
    rates = {arm: choose_learning_rate(arm, swept).lr or plan.training.lr for arm in plan.arms}
    return swept + results_of(plan.trials(rates), "trials")


@contextlib.contextmanager
def _saying_what_is_kept(plan: Plan, folder: Path) -> Iterator[None]:
    """Let an interruption say what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        count = len(list((folder / TRIALS).rglob(OUTCOME)))
        whole = len(plan.sweep()) + len(plan.trials(dict.fromkeys(plan.arms, plan.training.lr)))
        raise type(stop)(
            f"stopped; {folder} keeps the audits, {count} of {whole} trials and the last checkpoints of those under "
            f"way, and the same command goes on from there"
        ) from None


def _interval(verdict: Verdict) -> list[float] | None:
    """The ends of a verdict's interval; None where one pair or none leaves it open."""
    ends = [] if verdict.difference is None else [verdict.difference.low, verdict.difference.high]
    return ends if ends and all(map(math.isfinite, ends)) else None


def _as_call(arms: Sequence[Source]) -> str:
    """The Python call that a comparison came from, in short."""
    names = ", ".join(repr(str(arm)) if isinstance(arm, str | Path) else "..." for arm in arms)
    return f"litmus.compare([{names}], ...)"


def _circumstances(plan: Plan, tokens: TokenData) -> dict[str, Any]:
    """What the report says about how the figures came about."""
    training, device = plan.training, pick_device(plan.training.device)
    precision = resolve_precision(training.precision, device)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(device),
        "device": str(device),
        "versions": versions(),
        "precision": precision,
        "threads": training.threads,
        "data": tokens.provenance,
        "fingerprint": tokens.fingerprint,
        "training": training.model_dump(mode="json"),
    }
