"""Probes of several arms: a comparison per probe, and all of them in one table and one heatmap of arms and probes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from litmus.comparison import PROBE_SIZE, PROBE_TRAINING
from litmus.comparison.compare import Comparison, compare
from litmus.comparison.report.formatting import verdict_sentence
from litmus.comparison.report.heatmap import HeatmapCell, plot_accuracy_by_state, plot_heatmap
from litmus.comparison.report.page import page_figure, render
from litmus.comparison.statistics import Interval, t_interval
from litmus.errors import BadInput
from litmus.files import write_atomically
from litmus.model import Source
from litmus.probes import PROBES, probe_named
from litmus.probes.data import probe_settings
from litmus.training.settings import TrainSettings


@dataclass(frozen=True)
class ProbeScore:
    """What an arm makes of a probe, over seeds.

    accuracy: the share of right answers with its t-interval; None for an arm that fails its audit or its trainings.
    by_length: its mean by the length of the test examples. state_bytes: of the cache after the longest of them.
    """

    accuracy: Interval | None
    by_length: dict[int, float]
    lr: float | None
    state_bytes: float | None
    note: str


@dataclass(frozen=True)
class ProbeComparison:
    """One comparison per probe, by its name as it was given."""

    comparisons: dict[str, Comparison]

    @property
    def arms(self) -> list[str]:
        """The arms, the baseline first."""
        return next(iter(self.comparisons.values())).result.arms

    @cached_property
    def scores(self) -> dict[str, dict[str, ProbeScore]]:
        """The scores by probe and arm."""
        return {
            name: {arm: _score(name, comparison, arm) for arm in self.arms}
            for name, comparison in self.comparisons.items()
        }

    def table(self) -> Group:
        """A row per probe, a column per arm, and a sentence per verdict, for rich to print."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("accuracy")
        for arm in self.arms:
            table.add_column(arm, justify="right", overflow="fold")
        for name, scores in self.scores.items():
            table.add_row(name, *(_cell(scores[arm]) for arm in self.arms))
        sentences = [
            Text(f"• {name}: {verdict_sentence(verdict)}")
            for name, comparison in self.comparisons.items()
            for verdict in comparison.verdicts
        ]
        return Group(table, Text(), *sentences)

    def print(self) -> None:
        """Print the table; 100 columns wide if the output is not a terminal."""
        console = Console()
        if not console.is_terminal:
            console = Console(width=100, no_color=True)
        console.print(self.table())

    def to_json(self) -> str:
        """By probe: the score of each arm, and the whole comparison."""
        probes = {
            name: {
                "arms": {arm: _as_json(score) for arm, score in self.scores[name].items()},
                "comparison": json.loads(comparison.to_json()),
            }
            for name, comparison in self.comparisons.items()
        }
        return json.dumps({"probes": probes}, indent=1)

    def save_report(self, path: str | Path) -> Path:
        """Write the page with the heatmap, accuracy by state bytes, and the verdicts."""
        cells = {
            name: {
                arm: HeatmapCell(None if score.accuracy is None else score.accuracy.mean, score.state_bytes)
                for arm, score in scores.items()
            }
            for name, scores in self.scores.items()
        }
        figures = [
            page_figure(
                plot_heatmap(cells, self.arms),
                "Share of right answers in percent, mean over seeds, at the best of three learning rates per arm.",
            )
        ]
        if (scatter := plot_accuracy_by_state(cells, self.arms)) is not None:
            figures.append(
                page_figure(
                    scatter,
                    "Accuracy against the bytes of the cache after the longest test example: a dot per arm and probe.",
                )
            )
        rows = [
            (
                name,
                PROBES[name.partition(":")[0]].about,
                [_cell(scores[arm]) for arm in self.arms],
                [verdict_sentence(verdict) for verdict in self.comparisons[name].verdicts],
                self.comparisons[name].report,
            )
            for name, scores in self.scores.items()
        ]
        first = next(iter(self.comparisons.values())).result
        write_atomically(
            Path(path),
            render(
                "probes.html.j2",
                title=f"{', '.join(self.arms)} on {len(rows)} probe{'s' if len(rows) > 1 else ''}",
                arms=self.arms,
                figures=figures,
                rows=rows,
                command=first.context.get("command"),
                budget=first.budget,
                seeds=len(first.trials_of(first.baseline)),
            ),
        )
        return Path(path)


def probe(
    names: Sequence[str],
    arms: Sequence[Source],
    *,
    training: TrainSettings = PROBE_TRAINING,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    lr_sweep: bool = True,
    name: str | None = None,
    **options: Any,
) -> ProbeComparison:
    """Train `arms` on each of the probes `names` on equal terms, and judge each against the first by its accuracy.

    names: such as "mqar" or "mqar:length=64,pairs=8" (`litmus.probes.PROBES`). size: as for `litmus.compare`,
    `PROBE_SIZE` by default. lr_sweep: take the best of three learning rates per arm, each with the whole budget.
    name: the folder of a probe is NAME-PROBE. options: further ones of `litmus.compare`. One arm alone is scored
    without a verdict. Raises BadInput for an unknown probe or options that it cannot have, before any training.
    """
    settings = {given: probe_settings(probe_named(given)) for given in names}
    if not settings:
        raise BadInput(f"no probe was given; valid: {', '.join(PROBES)}")
    sizes = {} if size is not None else PROBE_SIZE
    return ProbeComparison(
        {
            given: compare(
                arms,
                data=data,
                training=training,
                size=size,
                overrides={**sizes, **(overrides or {})},
                lr_sweep=lr_sweep,
                primary="accuracy",
                name=None if name is None else f"{name}-{given.partition(':')[0]}",
                **options,
            )
            for given, data in settings.items()
        }
    )


def _score(name: str, comparison: Comparison, arm: str) -> ProbeScore:
    result = comparison.result
    trials = result.scored(arm)
    note = result.arm_notes.get(arm, "")
    if not trials:
        return ProbeScore(None, {}, None, None, note or next((t.failed for t in result.trials_of(arm) if t.failed), ""))
    lengths = trials[0].evaluation.accuracy_by_length
    longest = probe_named(name).test_lengths[-1]
    return ProbeScore(
        t_interval([trial.accuracy for trial in trials], result.confidence),
        {at: sum(trial.evaluation.accuracy_by_length[at] for trial in trials) / len(trials) for at in lengths},
        trials[0].lr,
        trials[0].run.cache_bytes_per_token * longest,
        note,
    )


def _cell(score: ProbeScore) -> str:
    if score.accuracy is None:
        return score.note or "–"
    mean, half = 100 * score.accuracy.mean, 100 * score.accuracy.half
    return f"{mean:.1f} % ± {half:.1f}"


def _as_json(score: ProbeScore) -> dict[str, Any]:
    accuracy = score.accuracy
    return {
        "accuracy": accuracy and accuracy.mean,
        "interval": accuracy and [accuracy.low, accuracy.high],
        "accuracy_by_length": score.by_length,
        "lr": score.lr,
        "state_bytes": score.state_bytes,
        "note": score.note,
    }
