"""The table in the terminal: two lines per arm, up to 100 columns wide, then a sentence per verdict."""

from __future__ import annotations

from typing import IO

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from litmus.comparison.plan import learning_rate_choices
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
from litmus.comparison.report.summary import ArmSummary, summarize
from litmus.comparison.results import ComparisonResult
from litmus.comparison.verdicts import Verdict, get_metric

WIDTH = 100
COLOURS = {
    "better": "bold green",
    "worse": "bold red",
    "equivalent": "bold cyan",
    "no difference shown": "yellow",
    "no verdict": "magenta",
}


def render_table(result: ComparisonResult) -> Group:
    """The table and the sentences below it as one rich renderable."""
    summaries = summarize(result)
    metric = get_metric(result.primary)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for header, justify in (
        ("arm", "left"),
        (result.score_name.replace(" ", "\n", 1), "right"),
        (f"difference\nin {metric.name}", "right"),
        ("effective\nspeed-up", "right"),
        ("parameters\nFLOPs/token", "right"),
        ("tokens/s\nmemory", "right"),
        ("cache\nper token", "right"),
        ("verdict", "left"),
    ):
        table.add_column(header, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for summary in summaries:
        table.add_row(*_cells(summary))
    sentences = [_sentence_line(summary.verdict) for summary in summaries if summary.verdict is not None]
    sentences += [Text(f"• {sentence}") for sentence in [prior_sentence(result)] if sentence]
    sentences += [Text(f"• {sentence}") for sentence in sweep_sentences(learning_rate_choices(result))]
    return Group(table, Text(), *sentences, Text(), Text(_footer(result, summaries), style="dim"))


def print_table(result: ComparisonResult, file: IO[str] | None = None) -> None:
    """Print table and sentences; as plain text 100 columns wide if the output is not a terminal."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=WIDTH, no_color=True)
    console.print(render_table(result))


def _cells(summary: ArmSummary) -> list[Text]:
    difference = ("baseline", "") if summary.is_baseline else ("–", "")
    if summary.verdict is not None and summary.verdict.difference is not None and not summary.is_baseline:
        difference = format_interval(summary.verdict.difference, sign=True)
    trained = "untrained" if summary.lr is None else f"lr {format_lr(summary.lr)}"
    if summary.failed:
        trained = f"{summary.failed}/{summary.seeds} failed"
    return [
        _two_lines(summary.arm, trained, style="bold"),
        _two_lines(*(format_interval(summary.bits_per_byte) if summary.bits_per_byte else ("–", ""))),
        _two_lines(*difference),
        _two_lines(*(("1×", "") if summary.is_baseline else format_speedup(summary.speedup))),
        _two_lines(_parameters(summary), _flops(summary)),
        _two_lines(format_si(summary.tokens_per_second), format_si(summary.peak_memory_bytes, "B")),
        _two_lines(format_si(summary.cache_bytes_per_token, "B"), ""),
        _verdict_cell(summary),
    ]


def _parameters(summary: ArmSummary) -> str:
    total = format_si(summary.parameters)
    return total if summary.all_active else f"{format_si(summary.parameters_active)}/{total}"


def _flops(summary: ArmSummary) -> str:
    each = format_si(summary.flops_per_token)
    return each if summary.all_scored else f"{each}/{format_si(summary.flops_per_scored_token)}"


def _verdict_cell(summary: ArmSummary) -> Text:
    if summary.verdict is None:
        return Text("baseline", style="dim")
    if not summary.is_baseline:
        return Text(summary.verdict.word, style=COLOURS[summary.verdict.word])
    if summary.verdict.word == "no difference shown":
        return _two_lines("against itself:", summary.verdict.word)
    return Text("against itself:\nfalse positive", style=COLOURS["no verdict"])


def _sentence_line(verdict: Verdict) -> Text:
    return Text.assemble(("• ", COLOURS[verdict.word]), verdict_sentence(verdict))


def _footer(result: ComparisonResult, summaries: list[ArmSummary]) -> str:
    seeds = max(summary.seeds for summary in summaries)
    several = len(summaries) > 2 or result.looks is not None
    interval = f"± is the {format_percent(result.confidence)} interval over seeds"
    interval += ", for differences of all verdicts together" if several else ""
    active = "" if all(summary.all_active for summary in summaries) else "; parameters: active per token/all"
    flops = "" if all(summary.all_scored for summary in summaries) else "; FLOPs: per token/per scored token"
    return f"{seeds} seeds, budget {result.budget}, scored on {scored_text(result)}; {interval}{active}{flops}"


def _two_lines(first: str, second: str, style: str = "") -> Text:
    return Text.assemble((first, style), ("\n" + second, "dim"))
