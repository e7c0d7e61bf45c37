"""A comparison from start to end: equal terms, audits, learning rates, paired trials, verdicts, report."""

from __future__ import annotations

import contextlib
import glob
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group

from litmus.comparison import DEFAULT_ARMS, DEFAULT_CONTEXT, DEFAULT_SEEDS, DEFAULT_SIZE, DEFAULT_TRAINING
from litmus.comparison.audit_gate import AuditGate, audit_section, failure_notes
from litmus.comparison.display import ProgressDisplay
from litmus.comparison.executors.local import run_trials
from litmus.comparison.ledger import VERDICT_KEYS, LedgerLine, append, check_ledger
from litmus.comparison.plan import Plan, choose_learning_rate, current_content, folder_prefix, resolve_arms
from litmus.comparison.prior import earlier_differences
from litmus.comparison.report.document import document, verdict_record
from litmus.comparison.report.formatting import verdict_sentence
from litmus.comparison.report.page import Section, save_report
from litmus.comparison.report.table import print_table, render_table
from litmus.comparison.results import ComparisonResult, TrialResult, check_is_file
from litmus.comparison.statistics import MAX_LOOKS, MAX_SEEDS
from litmus.comparison.trial import AUDITS, OUTCOME, TrialSpec
from litmus.comparison.verdicts import Verdict, get_metric, judge, undecided
from litmus.data import DataSettings, TokenData
from litmus.data.sampler import check_window_fits
from litmus.errors import BadInput, shown
from litmus.files import write_atomically, writing
from litmus.locks import folder_lock
from litmus.model import Source
from litmus.model.bounds import check_trained
from litmus.names import check_name
from litmus.probes.data import probe_of, probe_settings, token_data
from litmus.runtime.device import pick_device
from litmus.runtime.hardware import hardware, versions
from litmus.runtime.memory import total_bytes
from litmus.runtime.precision import resolve_precision
from litmus.training.evaluation import check_scorable
from litmus.training.settings import TrainSettings
from litmus.yaml_json import read_json

PLAN, TRIALS, RESULT, REPORT = "plan.json", "trials", "comparison.json", "report.html"

MIN_CONTEXT = 32
"""Smallest context of the models that are probed, so that all checks of an audit fit into it."""

MAX_JOBS, BYTES_PER_JOB = 8, 2e9
"""Limits of the default number of trials that run at the same time."""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison and its folder."""

    result: ComparisonResult
    folder: Path
    sections: tuple[Section, ...] = ()

    @property
    def verdicts(self) -> list[Verdict]:
        """One verdict per arm other than the baseline."""
        return judge(self.result)

    @property
    def report(self) -> Path:
        """The path of the HTML report."""
        return self.folder / REPORT

    def table(self) -> Group:
        """The table of costs, scores and verdicts, for rich to print."""
        return render_table(self.result)

    def print(self) -> None:
        """Print the table; as plain text if the output is not a terminal."""
        print_table(self.result)

    def save_report(self, path: str | Path) -> Path:
        """Write the self-contained HTML report."""
        return save_report(self.result, path, self.sections)

    def to_json(self) -> str:
        """Arms, scores, intervals, verdicts, costs, paths and the whole result as one JSON document."""
        return json.dumps(document(self.result, self.folder, self.report), indent=1)


def compare(
    arms: Sequence[Source] = DEFAULT_ARMS,
    *,
    data: DataSettings | str | Path = "stdlib",
    training: TrainSettings = DEFAULT_TRAINING,
    size: str | None = DEFAULT_SIZE,
    overrides: Mapping[str, Any] | None = None,
    seeds: int | str = DEFAULT_SEEDS,
    lr_sweep: bool = False,
    sweep_seeds: int = 1,
    noise: bool = False,
    primary: str = "bpb",
    confidence: float = 0.95,
    margin: float | None = None,
    prior: str | Path | None = None,
    jobs: int | None = None,
    keep_failed: bool = False,
    prompt: str = "",
    name: str | None = None,
    runs: str | Path = "runs",
    trust_plugin: bool = False,
    command: str | None = None,
    console: Console | None = None,
) -> Comparison:
    """Train `arms` (the first is the baseline) on equal terms over several seeds and judge each against the baseline.

    Every arm gets the same size (`size="own"`: each recipe's own), context, tokenizer, budget, data order and held-out
    tokens; with `lr_sweep` each gets the best of three learning rates, tried on `sweep_seeds` seeds each. `seeds`
    "3..12" adds seeds, from 3 to 12, until every arm is decided. `margin` is the largest difference that counts as
    none: arms within it are equivalent. `noise` trains the baseline again for every seed from another initialization,
    to judge it against itself. `prior`: a folder of runs; the intervals also draw on the variance of its comparisons on
    the same terms. Every arm is audited first; one that fails is not trained, or with `keep_failed` trained without a
    verdict. Trials are processes, `jobs` at a time (default: one per CPU core, or one on a GPU). The same call
    continues an interrupted comparison; finished trials are not repeated, those of other comparisons in `runs`
    included. `trust_plugin` runs a plug-in that a recipe file names even if the user has never named it. Raises
    BadInput, if possible before any training, and Failed if the audits leave nothing to compare.
    """
    console = console or Console(stderr=True)
    first, last = _check_options(seeds, jobs, primary, confidence, margin)
    if not 1 <= sweep_seeds <= MAX_SEEDS:
        raise BadInput(f"{sweep_seeds} seeds of the learning-rate sweep; valid are 1 to {MAX_SEEDS}")
    if sweep_seeds > 1 and not lr_sweep:
        raise BadInput(f"--sweep-seeds {sweep_seeds} is for a learning-rate sweep; add --lr-sweep")
    if name is not None:
        check_name(name, "a comparison's name")
    data = DataSettings(corpus=str(data)) if isinstance(data, str | Path) else data
    probe = probe_of(data)
    if probe is None:
        context = reach = training.context or DEFAULT_CONTEXT
        data = data.for_context(context)
    else:
        context, reach, data = probe.length, max(MIN_CONTEXT, probe.test_lengths[-1]), probe_settings(probe)
    if primary == "accuracy" and probe is None:
        raise BadInput("accuracy is a metric of probes, and a text has no answers; judge it by bpb")
    check_ledger(Path(runs))
    jobs, threads = parallelism(jobs, training)
    training = training.model_copy(update={"context": context, "threads": threads})
    terms: dict[str, Any] = {
        "size": size,
        "context": reach,
        "overrides": overrides or {},
        "trust_plugin": trust_plugin,
        "least": 2 if probe is None else 1,
    }
    resolve_arms(arms, **terms)  # finds a misspelt name before any text is read
    tokens = token_data(data, log=lambda text: console.print(text, highlight=False, markup=False))
    recipes = resolve_arms(arms, **terms, vocab_size=tokens.tokenizer.vocab_size)
    for recipe in recipes.values():
        check_trained(recipe, training.batch, context)
    if tokens.windows is None:
        check_window_fits(tokens.train, context, "train")
    check_scorable(tokens, context, (training.validate_tokens, training.evaluate_tokens))
    plan = Plan(recipes, data, tokens.fingerprint, training, noise, lr_sweep, prompt, sweep_seeds=sweep_seeds)
    folder = Path(runs) / name if name else _default_folder(plan, Path(runs))
    with folder_lock(folder, "comparing in"), _explain_interruption(folder):
        _claim(folder, plan)
        gate = AuditGate(recipes, folder, jobs, console, keep_failed=keep_failed)
        earlier = []
        if prior is not None:
            trained = range(training.seed, training.seed + last)
            earlier = earlier_differences(Path(prior), plan, primary, trained, (PLAN, RESULT))
            if not earlier:
                console.print(f"no comparison in {prior} is on the same terms: no prior", highlight=False, markup=False)
        result = ComparisonResult(
            name=folder.name,
            baseline=plan.baseline,
            arms=list(plan.arms),
            budget=training.budget,
            trials=[],
            primary=primary,
            confidence=confidence,
            margin=margin,
            looks=(first, last) if first < last else None,
            prior=earlier,
            context={"command": command or _as_call(arms), **_report_context(plan, tokens)},
        )
        result = _run_plan(plan, result, (first, last), folder, jobs, console, gate)
        result.save(folder / RESULT)
        comparison = Comparison(result, folder, (audit_section(gate.reports),))
        comparison.save_report(comparison.report)
        append(Path(runs), _ledger_line(comparison, plan))
    return comparison


def parallelism(jobs: int | None, training: TrainSettings) -> tuple[int, int]:
    """The number of concurrent trials and the CPU threads of each: together all cores; one trial on a GPU."""
    cores, device = torch.get_num_threads(), pick_device(training.device)
    if jobs is None and device.type != "cpu":
        jobs = 1
    if jobs is None:
        jobs = max(1, min(cores // (training.threads or 1), MAX_JOBS, int(total_bytes() // BYTES_PER_JOB)))
    return jobs, training.threads or max(1, cores // jobs)


def _check_options(
    seeds: int | str, jobs: int | None, primary: str, confidence: float, margin: float | None
) -> tuple[int, int]:
    """The fewest and most seeds; BadInput for options that would fail only after the training."""
    get_metric(primary)
    first, last = parse_seeds(seeds)
    if jobs is not None and jobs < 1:
        raise BadInput(f"{jobs} jobs would run nothing; ask for --jobs 1 or more")
    if not 0.5 < confidence < 1:
        raise BadInput(f"confidence is {confidence:g}; valid are numbers above 0.5 and below 1, such as 0.95")
    if margin is not None and not 0 < margin < math.inf:
        raise BadInput(f"margin is {margin:g}; valid are positive numbers in the metric's unit, such as 0.01")
    return first, last


def parse_seeds(seeds: int | str) -> tuple[int, int]:
    """The fewest and most seeds of 5 or "5" (equal) or "3..12"; BadInput for anything else."""
    text = str(seeds).strip()
    ends = text.split("..") if ".." in text else [text, text]
    if len(ends) != 2 or not all(end.isascii() and end.isdigit() and len(end) < 1000 for end in ends):
        raise BadInput(f"seeds are {shown(seeds)}; valid are a number such as 5, or a range such as 3..12")
    first, last = map(int, ends)
    if first < 2:
        raise BadInput(f"{first} seed cannot give a verdict, as it has no variance; ask for --seeds 2 or more")
    if last < first:
        raise BadInput(f"seeds are {text}: the most, {last}, are fewer than the least, {first}")
    if last > (MAX_SEEDS if first == last else MAX_LOOKS):
        most = f"{MAX_SEEDS} or fewer" if first == last else f"a range that ends at {MAX_LOOKS} or before"
        raise BadInput(f"{last} seeds are too many; ask for --seeds {most}")
    return first, last


def _run_plan(
    plan: Plan,
    result: ComparisonResult,
    seeds: tuple[int, int],
    folder: Path,
    jobs: int,
    console: Console,
    gate: AuditGate,
) -> ComparisonResult:
    """The result with all trials: the learning-rate sweep, the first seeds, and more while an arm is undecided.

    The first of them begin while the last audits run.
    """

    def run(specs: list[TrialSpec], title: str) -> list[TrialResult]:
        concurrent = f", {min(jobs, len(specs))} at a time" if len(specs) > 1 else ""
        budget = specs[0].training.budget
        line = f"{len(specs)} {title} of {budget}{concurrent}, in {folder}; finished ones are kept after Ctrl-C"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        with ProgressDisplay(console, title, specs) as display:
            return run_trials(specs, folder, jobs=jobs, on_event=display.on_event, gate=gate)

    def with_trials(trials: list[TrialResult]) -> ComparisonResult:
        changes = {"trials": [*result.trials, *trials], "arm_notes": failure_notes(gate.reports)}
        return ComparisonResult.model_validate(dict(result) | changes)

    first, last = seeds
    if plan.lr_sweep:
        result = with_trials(run(replace(plan, skipped=gate.skipped).sweep(), "learning-rate trials"))
    plan = replace(plan, skipped=gate.skipped)
    rates = {arm: choose_learning_rate(arm, result.trials).lr or plan.training.lr for arm in plan.arms}
    result = with_trials(run(plan.trials(rates, range(first)), "trials"))
    plan = replace(plan, skipped=gate.skipped)
    for seed in range(first, last):
        if not (arms := undecided(result)):
            break
        for verdict in judge(result):
            console.print(f"after {seed} seeds: {verdict_sentence(verdict)}", highlight=False, markup=False)
        result = with_trials(run(plan.trials(rates, [seed], arms), "trials"))
    return result


@contextlib.contextmanager
def _explain_interruption(folder: Path) -> Iterator[None]:
    """Add to an interruption what is kept and how to continue."""
    try:
        yield
    except KeyboardInterrupt as stop:
        finished = len(list((folder / TRIALS).rglob(OUTCOME)))
        raise type(stop)(
            f"stopped; {folder} keeps the audits, {finished} finished trials and the last checkpoints of the "
            f"running ones; the same command continues from there"
        ) from None


def _default_folder(plan: Plan, runs: Path) -> Path:
    """The folder of this plan: an existing one, even if an older version named it by other keys, or a new one."""
    folder = runs / f"{folder_prefix(plan)}-{plan.identity}"
    if not folder.exists():
        content = json.loads(json.dumps(plan.content()))
        for other in sorted(runs.glob(f"{glob.escape(folder_prefix(plan))}-{'[0-9a-f]' * 8}")):
            if _stored_content(other) == content:
                return other
    return folder


def _claim(folder: Path, plan: Plan) -> None:
    """Store the plan in its folder; BadInput if the folder holds anything else or trials of another plan."""
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{folder} is a file; a comparison needs a folder of its own, so choose another --name")
        folder.mkdir(parents=True, exist_ok=True)
    entries = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if entries and not entries & {PLAN, AUDITS, TRIALS}:
        raise BadInput(f"{folder} holds something other than a comparison ({min(entries)}); choose another --name")
    for name in (PLAN, RESULT, REPORT):
        check_is_file(folder / name)
    new = json.loads(json.dumps(plan.content()))
    if next((folder / TRIALS).rglob("*.json"), None) is not None:
        stored, given = _flatten(_stored_content(folder) or new), _flatten(new)
        for key in [*stored, *given]:
            if stored.get(key) != given.get(key):
                raise BadInput(
                    f"{folder} belongs to a comparison with {key} = {stored.get(key)!r}, and {given.get(key)!r} was "
                    f"asked for; choose another --name, or delete the folder"
                )
    write_atomically(folder / PLAN, json.dumps(new, indent=1))


def _stored_content(folder: Path) -> dict[str, Any] | None:
    """The content of the plan in a folder; None if it is missing or damaged (every trial stores its terms, too)."""
    try:
        stored = read_json(folder / PLAN)
    except BadInput:
        return None
    return json.loads(json.dumps(current_content(stored))) if isinstance(stored, dict) else None


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    inner = (_flatten(part, f"{prefix}.{key}" if prefix else str(key)) for key, part in value.items())
    return {key: part for each in inner for key, part in each.items()}


def _ledger_line(comparison: Comparison, plan: Plan) -> LedgerLine:
    """What the ledger keeps of a finished comparison."""
    result = comparison.result
    verdicts = [verdict_record(verdict) for verdict in comparison.verdicts]
    return LedgerLine(
        date=result.context["date"],
        command=result.context["command"],
        folder=comparison.folder.name,
        arms=result.arms,
        budget=result.budget,
        seeds=len(result.trials_of(result.baseline)),
        fingerprint=plan.fingerprint,
        identity=plan.identity,
        verdicts=[{key: verdict[key] for key in VERDICT_KEYS} for verdict in verdicts],
    )


def _as_call(arms: Sequence[Source]) -> str:
    """The Python call of the comparison, abbreviated."""
    names = ", ".join(repr(str(arm)) if isinstance(arm, str | Path) else "..." for arm in arms)
    return f"litmus.compare([{names}], ...)"


def _report_context(plan: Plan, tokens: TokenData) -> dict[str, Any]:
    """Hardware, versions, data and settings, as shown in the report."""
    training, device = plan.training, pick_device(plan.training.device)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(device),
        "device": str(device),
        "versions": versions(),
        "precision": resolve_precision(training.precision, device),
        "threads": training.threads,
        "data": tokens.provenance,
        "fingerprint": tokens.fingerprint,
        "training": training.model_dump(mode="json"),
    }
