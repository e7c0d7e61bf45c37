"""Tables of what a folder of runs holds, for the terminal: its entries, its ledger, and scores side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from litmus.auditing import AuditReport
from litmus.comparison.ledger import LedgerLine
from litmus.comparison.report.formatting import format_lr, format_si
from litmus.comparison.report.run_page import command_line
from litmus.comparison.report.table import COLOURS
from litmus.comparison.stored import Entry, Scored, StoredRun, utc
from litmus.training.display import duration
from litmus.training.run.config import METRICS
from litmus.training.run.result import CurvePoint, curve

NO_VERDICT = (
    "Each line is one training. One training has no error bar, so this table gives no verdict; "
    "litmus compare does, over several seeds."
)


def entries_table(entries: Sequence[Entry]) -> Table:
    """A line per run or comparison: its name, date, arms, score or verdicts, and size on disk."""
    table = _table("name", "kind", "date", "arms", "score or verdicts", "on disk")
    table.columns[-1].justify = "right"
    for entry in entries:
        table.add_row(
            Text(entry.name, style="bold"),
            entry.kind,
            entry.date or "–",
            Text(", ".join(entry.arms) or "–"),
            _outcome(entry),
            format_si(entry.bytes, "B"),
        )
    return table


def ledger_table(lines: Sequence[LedgerLine]) -> Table:
    """A line per verdict of the finished comparisons, oldest first."""
    table = _table("date, UTC", "folder", "arm", "verdict", "difference", "seeds", "budget")
    for column in (table.columns[0], table.columns[3], table.columns[4]):
        column.no_wrap = True
    for line in lines:
        for verdict in line.verdicts:
            word = str(verdict.get("word"))
            interval = verdict.get("interval")
            ends = f"\n{interval[0]:+.2g} to {interval[1]:+.2g}" if interval else ""
            difference = verdict.get("difference")
            table.add_row(
                line.date.removesuffix(" UTC"),
                Text(line.folder),
                Text(str(verdict.get("arm"))),
                Text(word, style=COLOURS.get(word, "")),
                "–" if difference is None else f"{difference:+.3g} {verdict.get('metric')}{ends}",
                str(verdict.get("seeds")),
                line.budget,
            )
    return table


def scores_table(trainings: Sequence[Scored]) -> Table:
    """Scores and costs of trainings, in the order given."""
    table = _table("run", "bits\nper byte", "lr\nseed", "tokens\ntime", "tokens/s\nmemory", "parameters\nFLOPs/token")
    table.add_column("cache\nper token")
    for column in table.columns[1:]:
        column.justify = "right"
    for training in trainings:
        result = training.result
        score = Text(f"{result.evaluation.bits_per_byte:.4f}")
        table.add_row(
            Text(training.name, style="bold"),
            Text(training.mark, style="bold red") if training.mark else score,
            f"{format_lr(training.lr)}\n{training.seed}",
            f"{format_si(result.tokens)}\n{duration(result.train_seconds)}",
            f"{format_si(result.tokens_per_second)}\n{format_si(result.peak_memory_bytes, 'B')}",
            f"{format_si(result.parameters)}\n{format_si(result.flops_per_token)}",
            format_si(result.cache_bytes_per_token, "B"),
        )
    return table


def run_table(run: StoredRun) -> Table:
    """What one run was, what it cost and where its files are."""
    config, settings, points = run.config, run.config.training, run_curve(run)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    facts = {
        "recipe": str(config.recipe.get("name", "?")),
        "begun": utc(config.started) or config.started,
        "data": f"{config.data.corpus}, tokenizer {config.data.tokenizer}, fingerprint {config.data_fingerprint[:12]}",
        "settings": f"{settings.budget}, batch {settings.batch * settings.accumulation}, context "
        f"{config.resolved.context}, {settings.optimizer} at lr {format_lr(settings.lr)}, seed {settings.seed}, "
        f"{config.resolved.precision} on {config.resolved.device}",
        "audit": audit_line(run.audit),
    }
    if points:
        facts["held-out curve"] = (
            f"{points[0].val_bpb:.3f} bpb at step {points[0].step:,} to {points[-1].val_bpb:.3f} at step "
            f"{points[-1].step:,}"
        )
    if result := run.result:
        facts |= {
            "trained": f"{result.steps:,} steps, {format_si(result.tokens)} tokens in {duration(result.train_seconds)}",
            "costs": f"{format_si(result.parameters)} parameters, {format_si(result.flops_per_token)} FLOPs/token, "
            f"{format_si(result.tokens_per_second)} tokens/s, {format_si(result.peak_memory_bytes, 'B')} of memory, "
            f"{format_si(result.cache_bytes_per_token, 'B')} of cache per token",
        }
    elif config.compression and config.start:
        last = config.compression[-1]
        facts["state"] = (
            f"{last.method} of {config.start.run}: {', '.join(f'{key} {value}' for key, value in last.options.items())}"
        )
    else:
        facts["state"] = "imported" if config.imported and not config.start else "not finished"
    facts["command"] = command_line(config)
    facts["files"] = (
        f"{run.folder}: {', '.join(sorted(path.name for path in run.folder.iterdir() if _shown(path.name)))}"
    )
    for name, value in facts.items():
        table.add_row(name, Text(value))
    return table


def run_curve(run: StoredRun) -> list[CurvePoint]:
    """The validations of a run so far."""
    if run.result is not None:
        return run.result.curve
    return curve(run.folder / METRICS) if (run.folder / METRICS).is_file() else []


def audit_line(report: AuditReport | None) -> str:
    """Whether the model of a run passed its audit, in a few words."""
    if report is None:
        return "none for this recipe"
    return report.mark() or "passes its audit"


def _outcome(entry: Entry) -> Text:
    if entry.status == "damaged":
        return Text(f"damaged: {entry.note}", style="bold red")
    if entry.verdicts:
        words = [Text.assemble(f"{arm}: ", (word, COLOURS.get(word, ""))) for arm, word in entry.verdicts.items()]
        return Text("\n").join(words)
    if entry.score is not None:
        return Text(f"{entry.score:.4f} bpb")
    return Text(", ".join(filter(None, [entry.status if entry.status != "finished" else "", entry.note])))


def _shown(name: str) -> bool:
    return not name.startswith(".")


def _table(*headers: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table
