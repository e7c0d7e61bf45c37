"""The experiments of a protocol, run by the lab's own comparison, probes, decode benchmark and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from litmus.auditing import require_forward
from litmus.claims.checks import CHECKS
from litmus.claims.protocol import (
    Check,
    Compare,
    Decode,
    DecodeFigure,
    Derived,
    DerivedFigure,
    Experiment,
    Probe,
    training_of,
)
from litmus.claims.record import Figure
from litmus.claims.trial_figures import trial_figure
from litmus.comparison.compare import Comparison, compare
from litmus.comparison.probing import probe
from litmus.comparison.statistics import geometric_interval, t_interval
from litmus.comparison.trial import trial_run
from litmus.data import data_settings_from
from litmus.errors import BadInput, nearest
from litmus.generation.bench import Cell
from litmus.generation.bench.bench import bench_decode
from litmus.training.settings import TrainSettings

SPECIMENS = "specimens/"
"""The start of the path of a plug-in that is in a checkout, next to the package."""


@dataclass
class Lab:
    """Where and how experiments run, and the comparisons that are done, by the experiment's name.

    model: a trained model for the checks that take one. jobs, device: of comparisons; None for their defaults.
    """

    runs: Path
    console: Console
    command: str
    jobs: int | None = None
    device: str | None = None
    model: Path | None = None
    comparisons: dict[str, Comparison] = field(default_factory=dict)

    def trained_runs(self, comparison: str) -> list[Path]:
        """The run folders of the baseline's seeds in a comparison."""
        done = self.comparisons[comparison]
        trials = done.result.trials_of(done.result.baseline)
        return [done.folder / trial_run(trial) for trial in trials if trial.failed is None]


def run_experiment(experiment: Experiment, lab: Lab, before: dict[str, Figure]) -> dict[str, Figure]:
    """The figures of an experiment; `before` are those of the ones before it."""
    if isinstance(experiment, Derived):
        return {name: _difference(before, one) for name, one in experiment.figures.items()}
    if isinstance(experiment, Check):
        return _run_check(experiment, lab)
    if isinstance(experiment, Decode):
        return _run_decode(experiment, lab)
    comparison = _run_compare(experiment, lab) if isinstance(experiment, Compare) else _run_probe(experiment, lab)
    lab.comparisons[experiment.name] = comparison
    return {name: trial_figure(comparison, wanted) for name, wanted in experiment.figures.items()}


def _run_compare(experiment: Compare, lab: Lab) -> Comparison:
    return compare(
        _sources(experiment.arms),
        data=data_settings_from(experiment.data),
        size=experiment.size,
        primary=experiment.primary,
        margin=experiment.margin,
        noise=experiment.noise,
        keep_failed=experiment.keep_failed,
        **_shared(experiment, lab),
    )


def _run_probe(experiment: Probe, lab: Lab) -> Comparison:
    done = probe([experiment.probe], _sources(experiment.arms), size=experiment.size, **_shared(experiment, lab))
    return done.comparisons[experiment.probe]


def _shared(experiment: Compare | Probe, lab: Lab) -> dict[str, Any]:
    training: TrainSettings = training_of(experiment)
    if lab.device is not None:
        training = training.model_copy(update={"device": lab.device})
    return {
        "training": training,
        "overrides": experiment.overrides,
        "seeds": experiment.seeds,
        "lr_sweep": experiment.lr_sweep,
        "jobs": lab.jobs,
        "runs": lab.runs,
        "command": lab.command,
        "console": lab.console,
    }


def _sources(arms: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
    """The arms with the paths of specimens, which are in a checkout and not in the installed package."""
    found = []
    for arm in arms:
        if isinstance(arm, str) and arm.startswith(SPECIMENS):
            path = Path(__file__).parents[2] / arm
            if not path.is_file():
                raise BadInput(f"{arm} is not in the installed package; run this claim in a checkout of the repository")
            arm = str(path)
        found.append(arm)
    return found


def _run_decode(experiment: Decode, lab: Lab) -> dict[str, Figure]:
    with lab.console.status("building") as status:
        done = bench_decode(
            experiment.recipe,
            size=experiment.size,
            prompt_tokens=",".join(map(str, experiment.prompt_tokens)),
            batch="1",
            new_tokens=experiment.new_tokens,
            repeats=experiment.repeats,
            device=lab.device or "auto",
            log=status.update,
            check=require_forward,
        )
    cells = {(cell.strategy, cell.prompt): cell for cell in done.cells}
    return {name: _decode_figure(cells, wanted) for name, wanted in experiment.figures.items()}


def _decode_figure(cells: dict[tuple[str, int], Cell], wanted: DecodeFigure) -> Figure:
    pair = [
        _cell(cells, wanted.strategy, wanted.prompt),
        _cell(cells, wanted.against, wanted.against_prompt or wanted.prompt),
    ]
    costs: dict[str, tuple[str, Callable[[Cell], list[float]]]] = {
        "first": ("time to the first token", lambda cell: cell.first),
        "per_token": ("time per token", lambda cell: cell.per_token),
        "total": ("total time", lambda cell: cell.total),
        "cache_bytes": ("cache bytes", lambda cell: [float(cell.cache_bytes)] * len(cell.runs)),
    }
    name, cost = costs[wanted.cost]
    at = f"after {wanted.prompt} tokens"
    if wanted.against_prompt is None:
        label = f"{wanted.strategy} / {wanted.against}, {name} {at}"
    else:
        label = f"{wanted.strategy}, {name} {at} / {wanted.against_prompt} tokens"
    ratios = [one / other for one, other in zip(*map(cost, pair), strict=True)]
    value, low, high = geometric_interval(ratios)
    values = {str(number): ratio for number, ratio in enumerate(ratios)}
    return Figure(label=label, unit="times", value=value, low=low, high=high, count=len(ratios), values=values)


def _cell(cells: dict[tuple[str, int], Cell], strategy: str, prompt: int) -> Cell:
    if (strategy, prompt) not in cells:
        found = ", ".join(f"{name} after {length}" for name, length in cells)
        raise BadInput(f"decoding by {strategy!r} after {prompt} tokens was not measured; measured: {found}")
    return cells[strategy, prompt]


def _run_check(experiment: Check, lab: Lab) -> dict[str, Figure]:
    if experiment.check not in CHECKS:
        raise BadInput(f"unknown check {experiment.check!r}; {nearest(experiment.check, CHECKS)}")
    options = dict(experiment.options)
    if experiment.trained is not None:
        options["runs"] = lab.trained_runs(experiment.trained) if lab.model is None else [lab.model]
        options["log"] = lambda line: lab.console.print(line, highlight=False, markup=False)
    found = CHECKS[experiment.check].function(**options)
    return {name: found[measured] for name, measured in experiment.figures.items()}


def _difference(before: dict[str, Figure], wanted: DerivedFigure) -> Figure:
    """The difference paired by seed."""
    figure, minus = before[wanted.figure], before[wanted.minus]
    label = f"{wanted.figure} − {wanted.minus}, {figure.unit}"
    missing = next((one for one in (figure, minus) if one.value is None), None)
    if missing is not None:
        return missing.model_copy(update={"label": label})
    values = {seed: figure.values[seed] - minus.values[seed] for seed in figure.values if seed in minus.values}
    mean = t_interval(list(values.values()))
    return Figure(
        label=label, unit=figure.unit, value=mean.mean, low=mean.low, high=mean.high, count=len(values), values=values
    )
