"""What super weights do: activations by layer, loss against their scale and number, stop words; tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litmus.compression.ablation import Edit, block_losses, edited
from litmus.compression.superweights import Search
from litmus.data import Tokenizer
from litmus.diagnostics import down_projections
from litmus.files import write_atomically
from litmus.locks import folder_replaced
from litmus.model import Decoder
from litmus.nn import Batch
from litmus.training.paired import Estimate, ratio_interval

SCALES = (0.0, 0.2, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
COUNTS = (1, 10, 100, 1000, 10_000)
_WORDS = "the a an and or but of to in on at by for with as is was are be it he she they you i that this not"
STOP_WORDS = frozenset(_WORDS.split())
"""Frequent English words; Yu et al. 2024 saw their probability rise when a super weight is removed."""

JSON, REPORT, KIND = "superweights.json", "report.md", "super-weight report"


@dataclass(frozen=True)
class Study:
    """Measurements around the super weights of a search, or the candidate with the largest effect if there is none.

    studied: places of the weights. label: what they are, for figures. activations: largest |residual| after each layer,
    as it is and with them zeroed. by_token: the same (layers, tokens) for the tokens of the first block of text, whose
    texts are `tokens`. scales: increase of the loss with all of them times a factor. counts: increase of the
    loss with 1, 10, ... weights zeroed, of the "studied" ones, the "largest" others of all down-projections, and
    "random" ones. stop_words: mean probability of stop words before and after, None if no token of the vocabulary is
    one.
    """

    studied: list[str]
    label: str
    activations: tuple[list[float], list[float]]
    by_token: tuple[list[list[float]], list[list[float]]]
    tokens: list[str]
    scales: dict[float, Estimate]
    counts: dict[str, dict[int, Estimate]]
    stop_words: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """The study as plain data."""
        return {
            "studied": self.studied,
            "label": self.label,
            "activations": {"before": self.activations[0], "zeroed": self.activations[1]},
            "by_token": {"before": self.by_token[0], "zeroed": self.by_token[1], "tokens": self.tokens},
            "scales": {str(scale): vars(estimate) for scale, estimate in self.scales.items()},
            "counts": {kind: {str(n): vars(one) for n, one in curve.items()} for kind, curve in self.counts.items()},
            "stop_words": self.stop_words,
        }


def study(model: Decoder, batch: Batch, tokenizer: Tokenizer, search: Search, *, seed: int = 0) -> Study:
    """Measure what the weights found by `search` do, on the same blocks of text; the weights stay the same."""
    found = search.super_weights or search.candidates[:1]

    def scaled(factor: float) -> list[Edit]:
        return [Edit.of(one.projection, one.row, one.column, factor) for one in found]

    def increase(edits: Sequence[Edit]) -> Estimate:
        with edited(edits):
            return ratio_interval(block_losses(model, batch).cpu() - search.losses.cpu(), search.tokens.cpu())

    before, words = _activations(model, batch), _stop_word_probability(model, batch, tokenizer)
    with edited(scaled(0.0)):
        after, words_after = _activations(model, batch), _stop_word_probability(model, batch, tokenizer)
    ranked = {"studied": {n + 1: increase(scaled(0.0)[: n + 1]) for n in range(len(found))}}
    for kind in ("largest", "random"):
        ranked[kind] = {n: increase(edits) for n, edits in _other_weights(model, search, kind, seed)}
    return Study(
        [one.place for one in found],
        "super weights" if search.super_weights else "largest candidate",
        (before.amax((1, 2)).tolist(), after.amax((1, 2)).tolist()),
        (before[:, 0].tolist(), after[:, 0].tolist()),
        [tokenizer.decode([token]) for token in batch.tokens[0].tolist()],
        {factor: increase(scaled(factor)) for factor in SCALES} if found else {},
        ranked,
        None if words is None or words_after is None else (words, words_after),
    )


@torch.no_grad()
def _activations(model: Decoder, batch: Batch) -> Tensor:
    """The largest |residual| (layers, B, T) after each layer."""
    found: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _module, _inputs, x: found.append(x.abs().amax(-1).float().cpu()))
        for layer in set(model.layers)  # a layer may occur twice
    ]
    try:
        model.hidden(batch.tokens)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)


def _other_weights(model: Decoder, search: Search, kind: str, seed: int) -> list[tuple[int, list[Edit]]]:
    """Edits that zero the n largest, or n random, weights of all down-projections other than the candidates."""
    projections = down_projections(model)
    scores = []
    for number, projection in enumerate(projections):
        random = torch.Generator().manual_seed(seed + number)
        matrix = projection.matrix
        score = matrix.abs().float().cpu() if kind == "largest" else torch.rand(matrix.shape, generator=random)
        for one in search.candidates:
            if one.projection == projection:
                score[one.row, one.column] = -1.0
        scores.append(score.flatten())
    sizes = torch.tensor([len(score) for score in scores])
    ends, every = sizes.cumsum(0), torch.cat(scores)
    chosen = every.topk(min(COUNTS[-1], len(every) // 2)).indices
    edits = []
    for count in (n for n in COUNTS if n <= len(chosen)):
        places = chosen[:count]
        owners = torch.searchsorted(ends, places, right=True)
        parts = []
        for number in owners.unique().tolist():
            inside = places[owners == number] - (ends[number] - sizes[number])
            width = projections[number].matrix.shape[1]
            parts.append(Edit(projections[number], inside // width, inside % width))
        edits.append((count, parts))
    return edits


@torch.no_grad()
def _stop_word_probability(model: Decoder, batch: Batch, tokenizer: Tokenizer) -> float | None:
    """Mean over the tokens of the text of the probability of all stop words together; None if no token is one."""
    ids = [n for n in range(tokenizer.vocab_size) if tokenizer.decode([n]).strip().lower() in STOP_WORDS]
    if not ids:
        return None
    total = 0.0
    for row in batch.tokens:
        total += float(model(row[None]).float().softmax(-1)[..., ids].sum(-1).mean())
    return total / len(batch.tokens)


def candidates_table(search: Search) -> list[list[str]]:
    """The rows of a table of candidates, the first being its header."""
    rows = [["matrix", "row", "column", "value", "in", "out", "prompts", "zeroing costs", "largest control", "verdict"]]
    for one in search.candidates:
        assert one.increase is not None
        control = f"{one.largest_control:.2g}" if one.controls else "–"
        place = [one.projection.place, str(one.row), str(one.column), f"{one.value:+.3g}"]
        ratios = [f"{one.spikes.input_ratio:.3g}x", f"{one.spikes.output_ratio:.3g}x", f"{one.agreement:.0%}"]
        rows.append([*place, *ratios, str(one.increase), control, one.verdict])
    return rows


def checkpoints_table(tracked: Mapping[int, Search]) -> list[list[str]]:
    """The rows of a table of checkpoints, the first being its header."""
    rows = [["step", "verdict", "largest spike", "costliest candidate", "zeroing costs", "largest control"]]
    for step, search in tracked.items():
        rows.append([str(step), search.verdict, f"{search.largest_spike:.3g}x", "–", "–", "–"])
        if search.candidates:
            one = search.candidates[0]
            rows[-1][3:] = [one.place, str(one.increase), f"{one.largest_control:.2g}"]
    return rows


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first being the header, as a table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def save(folder: Path, name: str, search: Search, measured: Study, tracked: Mapping[int, Search] | None = None) -> None:
    """Write superweights.json, report.md and its figures to `folder`, in place of an earlier report only.

    tracked: the searches of a run's checkpoints by step, for a table and figures of their own.
    """
    tracked = tracked or {}
    document = {"model": name, **search_document(search), "study": measured.to_dict()}
    document |= {"checkpoints": [{"step": step, **search_document(one)} for step, one in tracked.items()]}
    with folder_replaced(folder, KIND) as fresh:
        write_atomically(fresh / JSON, json.dumps(document, indent=1))
        parts = [_report(name, search, measured), *map(_image, draw(fresh, measured))]
        if tracked:
            parts += ["## Over the training", markdown_table(checkpoints_table(tracked))]
            parts += map(_image, draw_checkpoints(fresh, tracked))
        write_atomically(fresh / REPORT, "\n\n".join(parts) + "\n")


def search_document(search: Search) -> dict[str, Any]:
    """A search as plain data."""
    candidates = [one.to_dict() for one in search.candidates]
    return {"verdict": search.verdict, "largest_spike": search.largest_spike, "candidates": candidates}


def _image(figure: Path) -> str:
    return f"![{figure.stem}]({figure.name})"


def _report(name: str, search: Search, measured: Study) -> str:
    """The report on the model itself as Markdown, without its figures."""
    parts = [f"# Super weights of {name}", f"{search.verdict}.", markdown_table(candidates_table(search))]
    if measured.stop_words:
        before, after = measured.stop_words
        zeroed = f", with the {measured.label} zeroed {after:.3f}" if measured.studied else ""
        parts.append(f"Stop words have a probability of {before:.3f}{zeroed}.")
    return "\n\n".join(parts)


def draw(folder: Path, measured: Study) -> list[Path]:
    """Write the figures that there is data for as SVG files; returns their paths."""
    drawn = []
    before, after = measured.activations
    layers = {"as it is": dict(enumerate(before)), "zeroed": dict(enumerate(after))}
    drawn.append(_figure(folder / "activations.svg", "largest |residual|", "layer", layers, log_y=True))
    drawn.append(_heatmaps(folder / "tokens.svg", "largest |residual|", measured))
    named = {"studied": measured.label, "largest": "largest others", "random": "random others"}
    counts = {named[kind]: _means(curve) for kind, curve in measured.counts.items() if curve}
    drawn.append(
        _figure(folder / "zeroed.svg", "loss increase, nats per token", "number of zeroed weights", counts, log_x=True)
    )
    if measured.scales:
        scale = {measured.label: _means(measured.scales)}
        drawn.append(_figure(folder / "scale.svg", "loss increase, nats per token", "factor of the weights", scale))
    return drawn


def draw_checkpoints(folder: Path, tracked: Mapping[int, Search]) -> list[Path]:
    """Write the figures over the steps of a training as SVG files; returns their paths."""
    spikes = {"largest spike": {step: one.largest_spike for step, one in tracked.items()}}
    costliest = {step: one.candidates[0] for step, one in tracked.items() if one.candidates}
    drawn = [_figure(folder / "spike_by_step.svg", "multiple of the median channel", "step", spikes, log_y=True)]
    if costliest:
        costs = {
            "costliest candidate": {step: one.increase.mean for step, one in costliest.items() if one.increase},
            "its largest control": {step: one.largest_control for step, one in costliest.items()},
        }
        drawn.append(_figure(folder / "cost_by_step.svg", "loss increase, nats per token", "step", costs))
    return drawn


def _means(curve: dict[Any, Estimate]) -> dict[Any, float]:
    return {place: one.mean for place, one in curve.items()}


def _figure(
    path: Path,
    title: str,
    xlabel: str,
    curves: dict[str, dict[Any, float]],
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for label, points in curves.items():
        axes.plot(list(points), list(points.values()), marker="o", markersize=3, label=label)
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.set_xlabel(xlabel, fontsize=9)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    axes.grid(True, linewidth=0.4)
    axes.legend(fontsize=8, frameon=False)
    return _saved(figure, path)


def _heatmaps(path: Path, title: str, measured: Study) -> Path:
    """Layers and tokens of the first block of text, as it is and zeroed, in one scale of colours."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    kinds = dict(zip(("as it is", f"{measured.label} zeroed"), measured.by_token, strict=True))
    values = torch.tensor(measured.by_token).clamp(min=1e-6)
    norm = LogNorm(float(values.min()), float(values.max()))
    count = len(measured.tokens)
    figure = Figure(figsize=(max(4.6, 0.13 * count + 1.4), 5.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, (kind, cells) in zip(panels, kinds.items(), strict=True):
        image = axes.imshow(cells, norm=norm, aspect="auto", origin="lower", interpolation="nearest")
        axes.set_title(f"{title}, {kind}", loc="left", fontsize=9.5)
        axes.set_ylabel("layer", fontsize=9)
    names = [repr(token)[1:-1] for token in measured.tokens]
    panels[-1].set_xticks(range(count), names, rotation=90, fontsize=6, parse_math=False)
    figure.colorbar(image, ax=panels, shrink=0.8)
    return _saved(figure, path)


def _saved(figure: Any, path: Path) -> Path:
    import io

    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_atomically(path, text.getvalue())
    return path
