"""The report on the claims, docs/claims.md, with a table of verdicts and a section and a picture per claim.

All of it follows from the records and the protocols; nothing is typed by hand.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litmus.claims.picture import draw
from litmus.claims.protocol import SCALES, Check, Compare, Decode, Derived, Experiment, Probe, arm_name, claim_names
from litmus.claims.record import Condition, Figure, Record, read_record, record_path
from litmus.comparison.report.formatting import decimals_for, format_number
from litmus.comparison.report.plotting import to_svg_file
from litmus.comparison.statistics import Estimate, minimum_detectable_difference, seeds_needed
from litmus.errors import BadInput
from litmus.files import write_atomically

LEVEL = 0.05

INTRODUCTION = """\
# The founding claims on trial

What the projects that Litmus grew out of claimed, each put to a test that was fixed before its result. A protocol (in
`litmus/claims/protocols`) states the hypothesis, the arms, the terms, the seeds, and the regions of a figure that would
confirm or refute it. A condition is **confirmed** if the whole interval of its figure lies in the one region,
**refuted** if it lies in the other, else **inconclusive**. A claim is refuted if one of its conditions is, confirmed if
all are.

`litmus claims run all` runs them, and `litmus claims report` writes this page from the records. Intervals are of 95 %,
over paired seeds or interleaved repeats; figures without one are exact."""


def load_records(folder: Path) -> list[Record]:
    """The records in a folder, by the claims' numbers; BadInput if there is none."""
    paths = [record_path(folder, name, scale) for name in claim_names() for scale in SCALES]
    records = [record for path in paths if (record := read_record(path)) is not None]
    if not records:
        raise BadInput(f"{folder} has no record of a claim; litmus claims run NAME makes one")
    return records


def write_report(records: Sequence[Record], page: Path, pictures: Path) -> None:
    """Write the page, and a picture per record into `pictures`, to which the page links relative to itself."""
    pictures.mkdir(parents=True, exist_ok=True)
    for record in records:
        canvas = draw(record.conditions)
        if canvas is not None:
            about = f"{record.claim.title}: {'; '.join(_ours(one.figure) for one in record.conditions)}"
            write_atomically(pictures / picture_name(record), to_svg_file(canvas, about))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, page_text(records, _relative(pictures, page.parent)))


def page_text(records: Sequence[Record], pictures: str) -> str:
    """The whole page in Markdown; `pictures` is the path of their folder, relative to the page."""
    parts = [INTRODUCTION, summary_table(records), *(_section(record, pictures) for record in records)]
    return "\n\n".join(parts) + "\n"


def summary_table(records: Sequence[Record], page: str = "") -> str:
    """A row per claim with the figure that decides it, and how many are confirmed; `page` precedes the anchors."""
    rows = [
        ["claim", "published", "ours, with its interval", "verdict", "command", "date", "hardware"],
        *(
            [
                f"[{record.claim.number}. {record.claim.title}]({page}#{anchor(record)})",
                record.claim.published,
                _labelled(deciding(record).figure),
                _verdict(record),
                f"`{record.command}`",
                record.date,
                _machine(record),
            ]
            for record in records
        ),
    ]
    counts = Counter(record.verdict for record in records)
    said = ", ".join(f"{counts[word]} {word}" for word in ("confirmed", "refuted", "inconclusive") if counts[word])
    return f"{_table(rows)}\n\nOf {len(records)}: {said}."


def deciding(record: Record) -> Condition:
    """The condition that the verdict follows from: the first with the claim's word."""
    return next(one for one in record.conditions if one.word == record.verdict)


def anchor(record: Record) -> str:
    """The anchor of a claim's section."""
    kept = "".join(letter for letter in _heading(record).lower() if letter.isalnum() or letter in "-_ ")
    return kept.replace(" ", "-")


def picture_name(record: Record) -> str:
    """The file of a record's picture."""
    return record_path(Path(), record.claim.name, record.claim.scale).with_suffix(".svg").name


def what_it_takes(condition: Condition) -> str:
    """What would decide an inconclusive condition: seeds by the observed spread; empty for the others."""
    figure, criterion = condition.figure, condition.criterion
    if condition.word != "inconclusive":
        return ""
    if figure.value is None or figure.low is None or figure.high is None:
        return f"there must be a figure; there is none, as {figure.note}."
    boundaries = {end for end in (*criterion.confirmed, *(criterion.refuted or ())) if end is not None}
    crossed = [end for end in boundaries if figure.low <= end <= figure.high]
    if not crossed:
        where = "between the two regions" if criterion.refuted else "outside of what would confirm it"
        return f"no seeds suffice: the interval lies {where}."
    boundary = min(crossed, key=lambda end: abs(end - (figure.value or 0.0)))
    distance = abs(figure.value - boundary)
    if figure.count < 2 or figure.high == figure.low:
        return f"no seeds suffice: it lies on the boundary, {boundary:g}."
    # The interval may be wider than Student's where several arms share the level: then its width counts.
    dof = float(figure.count - 1)
    error = (figure.high - figure.low) / 2 / _half_width(dof)
    estimate = Estimate(distance, error * figure.count**0.5, error, dof, 0.0, figure.count)
    needed = seeds_needed(distance, estimate, LEVEL) if distance else None
    least = minimum_detectable_difference(error, dof, LEVEL)
    seeds = "an n above 1000" if needed is None else f"n = {needed}"
    return (
        f"n = {figure.count} shows a distance of {least:.2g} {figure.unit} from {boundary:g} with 80 % power; the "
        f"observed {distance:.2g} would take {seeds}."
    )


def _half_width(dof: float) -> float:
    """Half the width of a 95 % t-interval in standard errors."""
    return Estimate(0.0, 1.0, 1.0, dof, 0.0, 2).interval(LEVEL).high


def _section(record: Record, pictures: str) -> str:
    claim = record.claim
    parts = [
        f"## {_heading(record)}",
        f"**{record.verdict.capitalize()}.** {claim.claim}",
        f"Source: {claim.source}. Published: {claim.published}.",
        f"Published protocol: {claim.published_protocol}",
        f"Hypothesis: {claim.hypothesis}",
        _conditions_table(record),
    ]
    takes = [(one, what_it_takes(one)) for one in record.conditions]
    parts += [f'To decide "{one.criterion.says}", {said}' for one, said in takes if said]
    if any(one.figure.value is not None for one in record.conditions):
        about = f"Each condition's figure with its interval: {claim.title}"
        parts.append(f"![{about}]({pictures}/{picture_name(record)})")
    others = {name: one for name, one in record.figures.items() if name not in {c.figure for c in claim.criteria}}
    if others:
        rows = [["also measured", "figure", "ours", "note"]]
        rows += [[name, one.label, _ours(one), one.note] for name, one in others.items()]
        parts.append(_table(rows))
    terms = "\n".join(f"- {_terms(experiment)}" for experiment in claim.experiments)
    parts.append(f"Terms:\n\n{terms}")
    parts.append(f"Limits: {claim.limits}")
    model = f" on {record.model}" if record.model else ""
    parts.append(
        f"`{record.command}`{model}, {record.date}, {_minutes(record.seconds)} on {_machine(record)}, torch "
        f"{record.versions.get('torch', 'unknown')}; protocol sha256 {record.sha256[:16]}. Folders of the comparisons: "
        f"{', '.join(record.folders) or 'none'}."
    )
    return "\n\n".join(parts)


def _heading(record: Record) -> str:
    at = "" if record.claim.scale == "cpu" else f" ({record.claim.scale})"
    return f"{record.claim.number}. {record.claim.title}{at}"


def _conditions_table(record: Record) -> str:
    rows = [["condition", "figure", "ours", "n", "verdict"]]
    for one in record.conditions:
        figure = one.figure
        rows.append([one.criterion.says, figure.label, _ours(figure), str(figure.count), f"**{one.word}**"])
    return _table(rows)


def _ours(figure: Figure) -> str:
    """The figure with its interval and unit, as "−0.012 (−0.020 to −0.004) bits per byte"."""
    if figure.value is None or figure.low is None or figure.high is None:
        return f"none: {figure.note}"
    if figure.high - figure.low <= 1e-12 * abs(figure.value):
        return f"{_exact(figure.value)} {figure.unit}"
    half = (figure.high - figure.low) / 2
    decimals = decimals_for(half, figure.value)
    signed = " − " in figure.label
    value, low, high = (
        format_number(number, decimals, sign=signed) for number in (figure.value, figure.low, figure.high)
    )
    return f"{value} ({low} to {high}) {figure.unit}".replace("-", "−")


def _labelled(figure: Figure) -> str:
    """The figure with what it is of."""
    unit = "" if figure.value is None or figure.unit not in figure.label else f" {figure.unit}"
    return f"{figure.label}: {_ours(figure).removesuffix(unit)}"


def _verdict(record: Record) -> str:
    """The word, and how many of several conditions are confirmed."""
    confirmed, every = sum(one.word == "confirmed" for one in record.conditions), len(record.conditions)
    share = f" ({confirmed} of {every} conditions confirmed)" if every > 1 else ""
    return f"**{record.verdict}**{share}"


def _exact(value: float) -> str:
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("e-", "e−") if not text.startswith("-") else f"−{text[1:]}"


def _terms(experiment: Experiment) -> str:
    """An experiment's terms in one line."""
    if isinstance(experiment, Decode):
        lengths = " and ".join(map(str, experiment.prompt_tokens))
        return (
            f"{experiment.name}: decoding {experiment.recipe}, {experiment.new_tokens} tokens after {lengths}, "
            f"{experiment.repeats} interleaved repeats, geometric means of paired ratios"
        )
    if isinstance(experiment, Check):
        options = ", ".join(f"{key} {value}" for key, value in experiment.options.items())
        trained = f" on the models of {experiment.trained}" if experiment.trained else ""
        return f"{experiment.name}: the check {experiment.check}{trained}{f' ({options})' if options else ''}"
    if isinstance(experiment, Derived):
        pairs = ", ".join(f"{name} is {one.figure} − {one.minus}" for name, one in experiment.figures.items())
        return f"{experiment.name}: paired by seed, {pairs}"
    arms = ", ".join(map(arm_name, experiment.arms))
    sizes = ", ".join(f"{key} {value}" for key, value in experiment.overrides.items())
    size = sizes or experiment.size or "dim 64, depth 2, heads 2"
    training = experiment.training
    sweep = "learning rate swept per arm around" if experiment.lr_sweep else "learning rate"
    batch = f"batch {training['batch']}" + (f" x {training['context']} tokens" if "context" in training else "")
    what = f"probe {experiment.probe}" if isinstance(experiment, Probe) else _data(experiment)
    return (
        f"{experiment.name}: {arms} at {size}; {what}; {training['budget']}, {batch}, {sweep} {training['lr']:g}, "
        f"{experiment.seeds} paired seeds"
    )


def _data(experiment: Compare) -> str:
    return ", ".join(str(value) for value in experiment.data.values())


def _machine(record: Record) -> str:
    hardware: dict[str, Any] = record.hardware
    gpu = hardware.get("gpu")
    return str(gpu["name"]) if gpu else f"{hardware.get('cpu')}, {hardware.get('cores')} cores"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _relative(target: Path, start: Path) -> str:
    return Path(os.path.relpath(target, start)).as_posix()


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first being the header, as a table in Markdown."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])
