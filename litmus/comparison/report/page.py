"""The page around the figures: what is said, in which order, filled into the template next to this file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from litmus.comparison.learning_rate import LearningRateChoice, learning_rate_choices
from litmus.comparison.metrics import metric
from litmus.comparison.report import figures
from litmus.comparison.report.canvas import to_svg
from litmus.comparison.report.caveats import caveats
from litmus.comparison.report.experts import expert_load
from litmus.comparison.results import ComparisonResult
from litmus.comparison.summary import ArmSummary, held_out_bytes, summarize
from litmus.comparison.wording import rate, scaled, sentence, speedup_words, with_interval
from litmus.files import write_atomically
from litmus.nn.attention.stats import LAYER_FIGURES

MOST_SAMPLE_CHARACTERS = 1200
ALIKE = 0.02


@dataclass(frozen=True)
class Section:
    """A further part of the page, after the samples: HTML that is already safe, or a figure, with a note above it."""

    title: str
    body: str | Figure
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure on the page: its SVG and the sentence beneath it."""

    svg: Markup
    caption: str


def save_report(result: ComparisonResult, path: str | Path, sections: Sequence[Section] = ()) -> Path:
    """Write the page of a comparison to `path` in one step; BadInput where no verdict can be given (one seed)."""
    write_atomically(Path(path), render_page(result, sections))
    return Path(path)


def render_page(result: ComparisonResult, sections: Sequence[Section] = ()) -> str:
    """The whole page as one HTML document: style and figures inside, no script, nothing fetched."""
    here = resources.files("litmus.comparison.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "scaled": scaled,
        "rate": rate,
        "with_interval": lambda *arguments: [_minus(text) for text in with_interval(*arguments)],
        "speedup": speedup_words,
        "sentence": sentence,
    }
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    summaries = summarize(result)
    choices = learning_rate_choices(result)
    return template.render(
        result=result,
        title=f"{result.baseline} against {', '.join(arm for arm in result.arms if arm != result.baseline)}",
        metric=metric(result.primary),
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        summaries=summaries,
        colours={arm: f"var(--arm-{place % 7})" for place, arm in enumerate(result.arms)},
        seeds=max(summary.seeds for summary in summaries),
        held_out=scaled(held_out_bytes(result), "B"),
        costs={summary.arm: _costs(summary, summaries) for summary in summaries},
        samples=_samples(result),
        pictures=_pictures(result, summaries, choices),
        galleries=_galleries(result),
        choices=choices,
        headline=_headline(summaries, result.baseline),
        caveats=caveats(result, summaries, choices),
        sections=[(section.title, section.note, _body(section)) for section in sections],
        context={name: value for name, value in result.context.items() if name != "command"},
        command=result.context.get("command"),
    )


def _headline(summaries: Sequence[ArmSummary], baseline: str) -> list[tuple[str, list[str]]]:
    """(what is said, of which arms): the verdicts in one line."""
    said = {
        "better": f"Better than {baseline}",
        "worse": f"Worse than {baseline}",
        "no difference shown": f"No difference to {baseline} shown",
        "no verdict": "No verdict",
    }
    of = {
        word: [s.arm for s in summaries if not s.is_baseline and s.verdict and s.verdict.word == word] for word in said
    }
    return [(words, of[word]) for word, words in said.items() if of[word]]


def _costs(summary: ArmSummary, summaries: Sequence[ArmSummary]) -> str:
    """What the arm costs compared with the baseline, so that a gain in one thing is not read without its price."""
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
    ratios = {name: mine / theirs - 1 for name, (mine, theirs) in costs.items() if mine and theirs}
    changed = [f"{name} {change:+.0%}" for name, change in ratios.items() if abs(change) >= ALIKE]
    alike = [name for name, change in ratios.items() if abs(change) < ALIKE]
    parts = [", ".join(changed)] if changed else []
    if alike:
        parts.append(f"{', '.join(alike)} within {ALIKE:.0%}")
    return _minus("; ".join(parts))


def _samples(result: ComparisonResult) -> list[tuple[str, str]]:
    """(arm, text) of each arm's first scored trial."""
    first = [trials[0] for arm in result.arms if (trials := result.scored(arm))]
    return [(trial.arm, _beginning(trial.sample)) for trial in first if trial.sample.strip()]


def _beginning(text: str) -> str:
    return text if len(text) <= MOST_SAMPLE_CHARACTERS else text[:MOST_SAMPLE_CHARACTERS] + " …"


def _pictures(
    result: ComparisonResult, summaries: Sequence[ArmSummary], choices: Sequence[LearningRateChoice]
) -> dict[str, Picture]:
    """Every figure there is something to draw for, by the name the template places it under."""
    judged = [summary.verdict for summary in summaries if summary.verdict and not summary.is_baseline]
    judged += [summary.verdict for summary in summaries if summary.verdict and summary.is_baseline]
    drawn = {
        "differences": (
            figures.differences(judged, result.arms),
            f"Each arm minus {result.baseline}, seed by seed: a dot per seed, a diamond for the mean, a bar for its "
            f"{result.confidence:.0%} interval. Grey is the noise floor. A verdict needs the bar clear of zero and "
            f"the diamond clear of the grey.",
        ),
        "tokens": (
            figures.curves(result, "tokens"),
            "Loss for the same amount of text: which arm learns more from each token. Band: least to most over seeds.",
        ),
        "seconds": (
            figures.curves(result, "seconds"),
            "Loss for the same time: which arm is ahead on this machine. Only training time counts.",
        ),
        "tokens_difference": (
            figures.curve_differences(result, "tokens"),
            f"The same, minus {result.baseline} on the same seed: below zero the arm learns more from each token.",
        ),
        "seconds_difference": (
            figures.curve_differences(result, "seconds"),
            f"The same, minus {result.baseline} on the same seed: below zero the arm is ahead in time.",
        ),
        "position": (
            figures.loss_by_position(result),
            "Loss by position in the window: further right, more context to predict from.",
        ),
        "position_difference": (
            figures.loss_by_position_difference(result),
            f"The same, minus {result.baseline}: below zero the arm predicts better there.",
        ),
        "entropy": (
            figures.attention_entropy(result),
            "How spread out attention is, layer by layer: 0 looks at one token, higher looks at many.",
        ),
        "learning_rates": (
            figures.learning_rates(result, choices),
            "Each learning rate tried on a short budget. The large dot was chosen; a cross at the top failed.",
        ),
    }
    return {name: _picture(figure, caption) for name, (figure, caption) in drawn.items() if figure is not None}


def _galleries(result: ComparisonResult) -> list[tuple[str, list[Picture]]]:
    """(title, pictures) of what layers tell, and of what only some arms have: experts, further terms of the loss."""
    loads = [
        _picture(
            figure,
            f"Load in {arm} on held-out text: a row per layer of experts, by its number; in it the experts from most "
            f"tokens to least, mean over seeds. Full colour is twice an even share or more, a cross no token at all.",
        )
        for arm in result.arms
        if (figure := expert_load(result, arm)) is not None
    ]
    terms = [
        _picture(figure, f"{term} as training goes on, before its weight. Training descends it; no score contains it.")
        for term in figures.further_terms(result)
        if (figure := figures.training_term(result, term)) is not None
    ]
    layers = [
        _picture(figure, f"{meaning} Layer by layer, where a layer has it; on held-out text.")
        for name, meaning in LAYER_FIGURES.items()
        if (figure := figures.layer_figure(result, name)) is not None
    ]
    galleries = [
        ("Inside the layers", layers),
        ("Load of the experts", loads),
        ("Further terms of the training loss", terms),
    ]
    return [(title, drawn) for title, drawn in galleries if drawn]


def _picture(figure: Figure, caption: str) -> Picture:
    return Picture(Markup(to_svg(figure, caption)), caption)


def _minus(text: str) -> str:
    """A hyphen before a number as a minus sign."""
    return re.sub(r"-(?=\d)", "−", text)


def _body(section: Section) -> Markup:
    if isinstance(section.body, Figure):
        return Markup(f"<figure>{to_svg(section.body, section.title)}</figure>")
    return Markup(section.body)
