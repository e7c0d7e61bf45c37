"""The HTML report of a single run: score, costs, curves, what the layers show, a sample, the audit and the settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from litmus.comparison.compare import REPORT
from litmus.comparison.report import plots
from litmus.comparison.report.formatting import format_lr, format_si
from litmus.comparison.report.page import PageFigure, galleries, page_figure, render, truncate
from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.comparison.stored import StoredRun, read, utc
from litmus.errors import BadInput
from litmus.files import real_path, write_atomically
from litmus.training.display import duration
from litmus.training.run.config import RunConfig, as_yaml
from litmus.training.run.result import RunResult


def save_run_report(folder: Path) -> Path:
    """Write the page of a finished run into its folder; BadInput if the run has not finished."""
    run = read(folder)
    if not isinstance(run, StoredRun) or run.result is None:
        raise BadInput(f"{folder} is not a finished run, so that there is nothing to report")
    write_atomically(folder / REPORT, render_run_page(run, run.result))
    return folder / REPORT


def render_run_page(run: StoredRun, result: RunResult) -> str:
    """The page as one self-contained HTML document without scripts and external resources."""
    config, name = run.config, str(run.config.recipe.get("name", "?"))
    alone = _as_comparison(run, result, name)
    return render(
        "run.html.j2",
        name=real_path(run.folder).name,
        title=name,
        terms=_terms(config),
        mark="" if run.audit is None else run.audit.mark().capitalize(),
        score=_score(result),
        scored=format_si(result.evaluation.bytes, "B"),
        costs=_costs(result),
        curves=_drawn(
            (
                plots.plot_training_loss(result.curve),
                "Loss over training tokens. Each point of the training loss is the mean since the previous one; it "
                "includes auxiliary terms.",
            ),
            (
                plots.plot_curves(alone, "seconds"),
                "Held-out loss over training seconds on this machine, without evaluation and saving.",
            ),
        ),
        inside=_drawn(
            (plots.plot_loss_by_position(alone), "Loss by position in the window; later positions have more context."),
            (
                plots.plot_attention_entropy(alone),
                "Mean entropy of the attention weights by layer: 0 attends to one token, higher values to many.",
            ),
        ),
        galleries=galleries(alone),
        sample=truncate(result.sample),
        audit=None if run.audit is None else Markup(run.audit.html_section()),
        command=command_line(config),
        settings=_settings(config),
        recipe=as_yaml(config.recipe),
    )


def command_line(config: RunConfig) -> str:
    """The command that began a run, without the path of the program."""
    program, *arguments = config.command or ["litmus"]
    name = Path(program).name
    return shlex.join(["litmus" if name == "__main__.py" else name, *arguments])


def _as_comparison(run: StoredRun, result: RunResult, name: str) -> ComparisonResult:
    """The run as the only trial of a comparison, which is what the plots take."""
    settings = run.config.training
    trial = TrialResult(arm=name, seed=settings.order_seed, lr=settings.lr, role="arm", run=result)
    return ComparisonResult(name=name, baseline=name, arms=[name], budget=settings.budget, trials=[trial])


def _drawn(*figures: tuple[Any, str]) -> list[PageFigure]:
    """The figures for which there is data, with their captions."""
    return [page_figure(figure, caption) for figure, caption in figures if figure is not None]


def _terms(config: RunConfig) -> list[str]:
    seed = f"seed {config.training.seed}"
    further = [f"from {config.start.run} at step {config.start.step:,}"] if config.start else []
    return [config.training.budget, f"on {config.data.corpus}", seed, *further, utc(config.started) or config.started]


def _score(result: RunResult) -> dict[str, str]:
    evaluation = result.evaluation
    return {
        "bits per byte": f"{evaluation.bits_per_byte:.4f}",
        "nats per token": f"{evaluation.nats_per_token:.4f}",
        "perplexity per token": f"{evaluation.perplexity:,.2f}",
    }


def _costs(result: RunResult) -> dict[str, str]:
    costs = {
        "parameters": format_si(result.parameters),
        "without embeddings": format_si(result.parameters_non_embedding),
    }
    if result.parameters_active != result.parameters:
        costs["active per token"] = format_si(result.parameters_active)
    return costs | {
        "FLOPs per token": format_si(result.flops_per_token),
        "tokens trained on": format_si(result.tokens),
        "steps": f"{result.steps:,}",
        "training time": duration(result.train_seconds),
        "tokens per second": format_si(result.tokens_per_second),
        "peak memory": format_si(result.peak_memory_bytes, "B"),
        "cache per token": format_si(result.cache_bytes_per_token, "B"),
    }


def _settings(config: RunConfig) -> dict[str, Any]:
    training = config.training.model_dump(mode="json")
    training["lr"] = format_lr(config.training.lr)
    return {
        "training": {key: value for key, value in training.items() if value not in (None, [])},
        "resolved": config.resolved.model_dump(mode="json"),
        "data": {**config.data_provenance, "fingerprint": config.data_fingerprint},
        "hardware": config.hardware,
        "versions": config.versions,
    }
