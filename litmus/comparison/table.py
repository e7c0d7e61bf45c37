"""The table in the terminal: two lines per arm, readable at 100 columns, then a sentence per verdict."""

from __future__ import annotations

from typing import IO

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from litmus.comparison.metrics import metric
from litmus.comparison.results import ComparisonResult
from litmus.comparison.summary import ArmSummary, held_out_bytes, summarize
from litmus.comparison.verdicts import Verdict
from litmus.comparison.wording import rate, scaled, sentence, speedup_words, with_interval

WIDTH = 100
COLOURS = {
    "better": "bold green",
    "worse": "bold red",
    "no difference shown": "yellow",
    "no verdict": "magenta",
}


def render(result: ComparisonResult) -> Group:
    """The table and its sentences as one rich renderable."""
    summaries = summarize(result)
    compared = metric(result.primary)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for header, justify in (
        ("arm", "left"),
        ("bits\nper byte", "right"),
        (f"difference\nin {compared.name}", "right"),
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
    return Group(table, Text(), *sentences, Text(), Text(_terms(result, summaries), style="dim"))


def print_table(result: ComparisonResult, file: IO[str] | None = None) -> None:
    """Print table and sentences; where the output is not a terminal, as plain text 100 columns wide."""
    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=WIDTH, no_color=True)
    console.print(render(result))


def _cells(summary: ArmSummary) -> list[Text]:
    difference = ("baseline", "") if summary.is_baseline else ("–", "")
    if summary.verdict is not None and summary.verdict.difference is not None and not summary.is_baseline:
        difference = with_interval(summary.verdict.difference, sign=True)
    trained = "untrained" if summary.lr is None else f"lr {rate(summary.lr)}"
    if summary.failed:
        trained = f"{summary.failed}/{summary.seeds} failed"
    return [
        _two_lines(summary.arm, trained, style="bold"),
        _two_lines(*(with_interval(summary.bits_per_byte) if summary.bits_per_byte else ("–", ""))),
        _two_lines(*difference),
        _two_lines(*(("1×", "") if summary.is_baseline else speedup_words(summary.speedup))),
        _two_lines(_parameters(summary), _flops(summary)),
        _two_lines(scaled(summary.tokens_per_second), scaled(summary.peak_memory_bytes, "B")),
        _two_lines(scaled(summary.cache_bytes_per_token, "B"), ""),
        _verdict_cell(summary),
    ]


def _parameters(summary: ArmSummary) -> str:
    total = scaled(summary.parameters)
    return total if summary.all_active else f"{scaled(summary.parameters_active)}/{total}"


def _flops(summary: ArmSummary) -> str:
    each = scaled(summary.flops_per_token)
    return each if summary.all_scored else f"{each}/{scaled(summary.flops_per_scored_token)}"


def _verdict_cell(summary: ArmSummary) -> Text:
    if summary.verdict is None:
        return Text("baseline", style="dim")
    if not summary.is_baseline:
        return Text(summary.verdict.word, style=COLOURS[summary.verdict.word])
    if summary.verdict.word == "no difference shown":
        return _two_lines("against itself:", summary.verdict.word)
    return Text("against itself:\na false call", style=COLOURS["no verdict"])


def _sentence_line(verdict: Verdict) -> Text:
    return Text.assemble(("• ", COLOURS[verdict.word]), sentence(verdict))


def _terms(result: ComparisonResult, summaries: list[ArmSummary]) -> str:
    seeds = max(summary.seeds for summary in summaries)
    text = scaled(held_out_bytes(result), "B")
    interval = f"± is the {result.confidence:.0%} interval over seeds"
    active = "" if all(summary.all_active for summary in summaries) else "; parameters: active for a token/all"
    drawn = "" if all(summary.all_scored for summary in summaries) else "; FLOPs: per token/per scored token"
    return f"{seeds} seeds, budget {result.budget}, scored on {text} of held-out text; {interval}{active}{drawn}"


def _two_lines(first: str, second: str, style: str = "") -> Text:
    return Text.assemble((first, style), ("\n" + second, "dim"))
