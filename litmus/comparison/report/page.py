"""The HTML report: fills the texts and plots of a comparison into the template next to this file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from litmus.comparison.plan import LearningRateChoice, learning_rate_choices
from litmus.comparison.report import plots
from litmus.comparison.report.formatting import (
    format_interval,
    format_lr,
    format_percent,
    format_si,
    format_speedup,
    prior_sentence,
    scored_text,
    sweep_sentences,
    verdict_sentence,
)
from litmus.comparison.report.plotting import to_svg
from litmus.comparison.report.summary import ArmSummary, summarize
from litmus.comparison.results import ComparisonResult
from litmus.comparison.verdicts import get_metric
from litmus.diagnostics import LAYER_STATS
from litmus.files import write_atomically

MAX_SAMPLE_CHARACTERS = 1200

MAX_EQUAL_COST = 0.02
"""Costs that differ by less are reported as equal."""


@dataclass(frozen=True)
class Section:
    """An additional section after the samples: trusted HTML or a figure, with a note above it."""

    title: str
    body: str | Figure
    note: str = ""


@dataclass(frozen=True)
class PageFigure:
    """A plot on the page: its SVG and its caption."""

    svg: Markup
    caption: str


def save_report(result: ComparisonResult, path: str | Path, sections: Sequence[Section] = ()) -> Path:
    """Write the page of a comparison to `path`; BadInput if there are too few seeds for verdicts."""
    write_atomically(Path(path), render_page(result, sections))
    return Path(path)


def render_page(result: ComparisonResult, sections: Sequence[Section] = ()) -> str:
    """The page as one self-contained HTML document without scripts and external resources."""
    summaries = summarize(result)
    choices = learning_rate_choices(result)
    return render(
        "page.html.j2",
        result=result,
        title=" against ".join(filter(None, [result.baseline, ", ".join(result.arms[1:])])),
        metric=get_metric(result.primary),
        summaries=summaries,
        colours={arm: f"var(--arm-{index % 7})" for index, arm in enumerate(result.arms)},
        seeds=max(summary.seeds for summary in summaries),
        held_out=scored_text(result),
        costs={summary.arm: _costs(summary, summaries) for summary in summaries},
        samples=_samples(result),
        figures=_figures(result, summaries, choices),
        galleries=galleries(result),
        choices=choices,
        sweep=sweep_sentences(choices),
        headline=_headline(summaries, result.baseline),
        caveats=_caveats(result, summaries, choices),
        sections=[(section.title, section.note, _body(section)) for section in sections],
        context={name: value for name, value in result.context.items() if name != "command"},
        command=result.context.get("command"),
    )


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled in, with the style sheet of all pages in it."""
    here = resources.files("litmus.comparison.report")

    def text(name: str) -> str:
        return (here / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "si": format_si,
        "lr": format_lr,
        "percent": format_percent,
        "interval": lambda *arguments: [_minus(text) for text in format_interval(*arguments)],
        "speedup": format_speedup,
        "sentence": verdict_sentence,
    }
    return environment.get_template(template).render(style=Markup(text("page.css")), **values)


def _caveats(
    result: ComparisonResult, summaries: Sequence[ArmSummary], choices: Sequence[LearningRateChoice]
) -> Iterator[tuple[str, str]]:
    """(heading, sentence) of each caveat that applies to this comparison."""
    if result.looks is not None:
        yield (
            "Seeds were added until every arm was decided",
            "Each look uses a stricter level, so that all looks together call equal arms different in at most "
            f"{format_percent(1 - result.confidence)} of comparisons.",
        )
    if result.prior:
        yield ("Earlier comparisons", prior_sentence(result))
    yield (
        "A small budget",
        f"These are small models with a short training ({result.budget}). The ranking can change with model size, text "
        f"and training length.",
    )
    if not choices:
        yield (
            "Learning rates",
            "No arm's learning rate was tuned. An arm may score better at another rate; --lr-sweep searches for it.",
        )
    edges = [
        f"{choice.arm} at {format_lr(choice.lr)}" for choice in choices if choice.at_edge and choice.lr is not None
    ]
    if edges:
        yield (
            "Learning rates at the edge",
            f"The best learning rate was the smallest or largest tried for {', '.join(edges)}: "
            f"a better one may lie outside the grid.",
        )
    yield (
        "Effective speed-up",
        "It depends on the schedule: the learning rate decays over the budget, so the time to reach a loss depends on "
        "the budget. Like all times, it was measured on this machine under its load at that time.",
    )


def _headline(summaries: Sequence[ArmSummary], baseline: str) -> list[tuple[str, list[str]]]:
    """(verdict, its arms) for the line at the top."""
    texts = {
        "better": f"Better than {baseline}",
        "worse": f"Worse than {baseline}",
        "equivalent": f"Equivalent to {baseline}",
        "no difference shown": f"No difference to {baseline} shown",
        "no verdict": "No verdict",
    }
    arms = {
        word: [s.arm for s in summaries if not s.is_baseline and s.verdict and s.verdict.word == word] for word in texts
    }
    return [(text, arms[word]) for word, text in texts.items() if arms[word]]


def _costs(summary: ArmSummary, summaries: Sequence[ArmSummary]) -> str:
    """The arm's costs relative to the baseline's."""
    base = next(other for other in summaries if other.is_baseline)
    if summary.is_baseline:
        return ""
    costs = {
        "tokens per second": (summary.tokens_per_second, base.tokens_per_second),
        "FLOPs per token": (summary.flops_per_token, base.flops_per_token),
        "parameters": (summary.parameters, base.parameters),
        "peak memory": (summary.peak_memory_bytes, base.peak_memory_bytes),
        "cache per token": (summary.cache_bytes_per_token, base.cache_bytes_per_token),
    }
    if not (summary.all_active and base.all_active):
        costs["active parameters"] = (summary.parameters_active, base.parameters_active)
    if not (summary.all_scored and base.all_scored):
        costs["FLOPs per scored token"] = (summary.flops_per_scored_token, base.flops_per_scored_token)
    changes = {name: mine / theirs - 1 for name, (mine, theirs) in costs.items() if mine and theirs}
    equal = [name for name, change in changes.items() if abs(change) < MAX_EQUAL_COST]
    changed = [f"{name} {format_percent(changes[name], sign=True)}" for name in changes if name not in equal]
    parts = [", ".join(changed)] if changed else []
    if equal:
        parts.append(f"{', '.join(equal)} within {format_percent(MAX_EQUAL_COST)}")
    return _minus("; ".join(parts))


def _samples(result: ComparisonResult) -> list[tuple[str, str]]:
    """(arm, text) of each arm's first scored trial."""
    first = [trials[0] for arm in result.arms if (trials := result.scored(arm))]
    return [(trial.arm, truncate(trial.run.sample)) for trial in first if trial.run.sample.strip()]


def truncate(text: str) -> str:
    """A text sample, cut to MAX_SAMPLE_CHARACTERS."""
    return text if len(text) <= MAX_SAMPLE_CHARACTERS else text[:MAX_SAMPLE_CHARACTERS] + " …"


def _figures(
    result: ComparisonResult, summaries: Sequence[ArmSummary], choices: Sequence[LearningRateChoice]
) -> dict[str, PageFigure]:
    """All figures for which there is data, by their name in the template."""
    judged = [summary.verdict for summary in summaries if summary.verdict and not summary.is_baseline]
    judged += [summary.verdict for summary in summaries if summary.verdict and summary.is_baseline]
    drawn = {
        "differences": (
            plots.plot_differences(judged, result.arms),
            f"Each arm minus {result.baseline} on the same seed: a dot per seed, a diamond for the mean, a bar for its "
            f"interval. A difference is shown if the bar excludes zero."
            + (" The margin is grey; the interval at twice the level is compared with it." if result.margin else ""),
        ),
        "tokens": (
            plots.plot_curves(result, "tokens"),
            "Loss over training tokens: which arm learns more per token. Band: minimum to maximum over seeds.",
        ),
        "seconds": (
            plots.plot_curves(result, "seconds"),
            "Loss over training seconds on this machine, without evaluation and saving.",
        ),
        "tokens_difference": (
            plots.plot_curve_differences(result, "tokens"),
            f"The same, minus {result.baseline} on the same seed: below zero the arm learns more per token.",
        ),
        "seconds_difference": (
            plots.plot_curve_differences(result, "seconds"),
            f"The same, minus {result.baseline} on the same seed: below zero the arm has the lower loss at that time.",
        ),
        "position": (
            plots.plot_loss_by_position(result),
            "Loss by position in the window; later positions have more context.",
        ),
        "position_difference": (
            plots.plot_loss_by_position_difference(result),
            f"The same, minus {result.baseline}: below zero the arm predicts better there.",
        ),
        "entropy": (
            plots.plot_attention_entropy(result),
            "Mean entropy of the attention weights by layer: 0 attends to one token, higher values to many.",
        ),
        "learning_rates": (
            plots.plot_learning_rates(result, choices),
            "Learning-rate sweep. A large dot marks the chosen rate, a cross at the top a failure.",
        ),
    }
    return {name: page_figure(figure, caption) for name, (figure, caption) in drawn.items() if figure is not None}


def galleries(result: ComparisonResult) -> list[tuple[str, list[PageFigure]]]:
    """(title, figures) of diagnostics that only some arms have: per layer, expert load, auxiliary losses."""
    where = "test examples" if result.is_probe else "held-out text"
    loads = [
        page_figure(
            figure,
            f"Expert load in {arm} on {where}, mean over seeds: a row per layer, its experts sorted by load. "
            f"Full colour is twice an even share or more; a cross marks experts without any token.",
        )
        for arm in result.arms
        if (figure := plots.plot_expert_load(result, arm)) is not None
    ]
    terms = [
        page_figure(figure, f"{term} during training, before its weight. No score contains it.")
        for term in plots.auxiliary_losses(result)
        if (figure := plots.plot_auxiliary_loss(result, term)) is not None
    ]
    layers = [
        page_figure(figure, f"{meaning} By layer, on {where}.")
        for name, meaning in LAYER_STATS.items()
        if (figure := plots.plot_layer_stat(result, name)) is not None
    ]
    found = [
        ("Inside the layers", layers),
        ("Expert load", loads),
        ("Auxiliary losses", terms),
    ]
    return [(title, drawn) for title, drawn in found if drawn]


def page_figure(figure: Figure, caption: str) -> PageFigure:
    """A plot as it stands on the page."""
    return PageFigure(Markup(to_svg(figure, caption)), caption)


def _minus(text: str) -> str:
    """Replace a hyphen before a digit by a minus sign."""
    return re.sub(r"-(?=\d)", "−", text)


def _body(section: Section) -> Markup:
    if isinstance(section.body, Figure):
        return Markup(f"<figure>{to_svg(section.body, section.title)}</figure>")
    return Markup(section.body)
