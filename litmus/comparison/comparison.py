"""A comparison from start to end: equal terms, audits, a learning rate per arm, paired trials, verdicts, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group

from litmus.audit import keep
from litmus.comparison.gate import audit_section, audited, marks, require_sound
from litmus.comparison.learning_rate import choose_learning_rate
from litmus.comparison.metrics import metric
from litmus.comparison.plan import Plan, arms_on_equal_terms, folder_name
from litmus.comparison.processes import run_all
from litmus.comparison.progress import Watch
from litmus.comparison.report import Section, save_report
from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.comparison.table import print_table, render
from litmus.comparison.trial import RUN, TrialSpec
from litmus.comparison.verdicts import Verdict, judge
from litmus.data import DataSettings, TokenData, prepare
from litmus.errors import BadInput
from litmus.model import Source
from litmus.training import TrainSettings
from litmus.training.machine import hardware, pick_device, versions
from litmus.training.precision import best_precision

ARMS = ("standard", "ssmax", "ssmax-nope")
"""The lab's baseline and two of the founding ideas: what `litmus compare` takes without arguments."""

DEFAULT_CONTEXT = 128
DEFAULT_TRAINING = TrainSettings(
    budget="200 steps", batch=8, context=DEFAULT_CONTEXT, lr=3e-3, validate_tokens=4096, evaluate_tokens=32_768
)
"""About a quarter of a minute per trial at size `tiny` on two CPU cores."""

RESULT, REPORT = "comparison.json", "report.html"


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


def compare(
    arms: Sequence[Source] = ARMS,
    *,
    data: DataSettings | str = "stdlib",
    training: TrainSettings = DEFAULT_TRAINING,
    size: str | None = "tiny",
    overrides: Mapping[str, Any] | None = None,
    seeds: int = 3,
    lr_sweep: bool = False,
    noise: bool = True,
    primary: str = "bpb",
    confidence: float = 0.95,
    jobs: int = 1,
    keep_failed: bool = False,
    prompt: str = "",
    name: str | None = None,
    runs: str | Path = "runs",
    command: str | None = None,
    console: Console | None = None,
) -> Comparison:
    """Train `arms` (the first is the baseline) on equal terms over several seeds and judge the others against it.

    Every arm gets the same size, context, tokenizer, budget, data order and held-out tokens; with `lr_sweep` each gets
    its own best of three learning rates. `noise` trains the baseline once more per seed from another init, to measure
    how far it differs from itself. Every arm is audited first; one that fails is not trained, or with `keep_failed`
    trained and marked, and never scored. Trials are processes, `jobs` at a time; the same call goes on where an
    interrupted one stopped and repeats no finished trial. Raises BadInput before anything is trained where it can,
    Failed when the audits leave nothing to compare.
    """
    console = console or Console(stderr=True)
    metric(primary)
    if seeds < 2:
        raise BadInput(f"{seeds} seed cannot give a verdict, as it shows no spread; ask for --seeds 2 or more")
    if jobs < 1:
        raise BadInput(f"{jobs} jobs would run nothing; ask for --jobs 1 or more")
    data = DataSettings(corpus=data) if isinstance(data, str) else data
    tokens = prepare(data, announce=lambda text: console.print(text, highlight=False, markup=False))
    threads = training.threads or max(1, torch.get_num_threads() // jobs)
    context = training.context or DEFAULT_CONTEXT
    training = training.model_copy(update={"context": context, "threads": threads})
    recipes = arms_on_equal_terms(
        arms, size=size, context=context, vocab_size=tokens.tokenizer.vocab_size, overrides=overrides or {}
    )
    plan = Plan(recipes, data, training, seeds, noise, prompt)
    folder = Path(runs) / (name or folder_name(plan))
    reports = audited(recipes, folder, console)
    if not keep_failed:
        require_sound(plan.baseline, reports)
        plan = replace(plan, skipped=frozenset(marks(reports)))
    swept = _trained(plan.sweep() if lr_sweep else [], folder, jobs, console, "learning rates")
    rates = {arm: choose_learning_rate(arm, swept).lr or training.lr for arm in plan.arms}
    judged = _trained(plan.trials(rates), folder, jobs, console, "trials")
    for spec in plan.trials(rates):
        keep(folder / spec.place / RUN, reports[spec.arm])
    result = ComparisonResult(
        name=folder.name,
        baseline=plan.baseline,
        arms=list(plan.arms),
        budget=training.budget,
        trials=swept + judged,
        primary=primary,
        confidence=confidence,
        arm_notes=marks(reports),
        context={"command": command or _as_call(arms), **_circumstances(plan, tokens)},
    )
    result.save(folder / RESULT)
    comparison = Comparison(result, folder, (audit_section(reports),))
    comparison.save_report(comparison.report)
    return comparison


def _trained(specs: list[TrialSpec], folder: Path, jobs: int, console: Console, title: str) -> list[TrialResult]:
    if not specs:
        return []
    with Watch(console, title, specs) as watch:
        return run_all(specs, folder, jobs=jobs, listen=watch.heard)


def _as_call(arms: Sequence[Source]) -> str:
    """The Python call that a comparison came from, in short."""
    names = ", ".join(repr(str(arm)) if isinstance(arm, str | Path) else "..." for arm in arms)
    return f"litmus.compare([{names}], ...)"


def _circumstances(plan: Plan, tokens: TokenData) -> dict[str, Any]:
    """What the report says about how the figures came about."""
    training, device = plan.training, pick_device(plan.training.device)
    precision = best_precision(device) if training.precision == "auto" else training.precision
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
