"""Train and evaluate runs: the public calls, in which a model is audited before it is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from litmus.auditing import AuditReport, audit, require_forward
from litmus.catalog import is_recipe
from litmus.data import DataSettings, Tokenizer
from litmus.errors import BadInput, Failed
from litmus.files import real_path
from litmus.generation import sample_text
from litmus.generation.chat.replies import Replies, read_word_list, reply_to_held_out
from litmus.model import Decoder, Recipe, Source, resolve
from litmus.model.bounds import check_trained
from litmus.model.plugins import plugin_faults
from litmus.names import check_name
from litmus.runtime.device import pick_device
from litmus.training.display import Display
from litmus.training.evaluation import Evaluation, evaluate_run, held_out_text
from litmus.training.plan import Plan, make_plan
from litmus.training.run.config import LoadedRun, read_config
from litmus.training.run.loading import data_to_continue, load_run
from litmus.training.run.result import RunResult
from litmus.training.settings import settings_from
from litmus.training.trainer import train_run


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, its result, the audit of its model, and the path of its report.

    Accepted wherever the path of a run folder is, as in `litmus.load(run)`.
    """

    folder: Path
    result: RunResult
    audit: AuditReport
    report: Path

    @property
    def evaluation(self) -> Evaluation:
        """The final score, on held-out tokens."""
        return self.result.evaluation

    @property
    def model(self) -> Decoder:
        """The trained model in fp32, read from its newest checkpoint on first use."""
        return self._loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer the model was trained with."""
        return self._loaded.tokenizer

    @cached_property
    def _loaded(self) -> LoadedRun:
        return load_run(self.folder, trust_plugin=True)  # its code ran in the training

    def __fspath__(self) -> str:
        return str(self.folder)


def train(
    recipe: Source | Run,
    data: DataSettings | str | Path | None = None,
    *,
    name: str | None = None,
    runs: str | Path = "runs",
    folder: str | Path | None = None,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    keep_failed: bool = False,
    trust_plugin: bool = False,
    display: Display | None = None,
    **settings: Any,
) -> Run:
    """Audit and train `recipe` in the run folder RUNS/NAME (or `folder`), resuming an earlier training; report it.

    recipe: as for `litmus.build`, or a run (its folder), whose model is trained further in a new run with its own
    tokenizer. data: a corpus, or DataSettings; by default Python's standard library, or the corpus of the run. name:
    by default the recipe's, or RUN-tuned. size, overrides: as for `litmus.build`. keep_failed: train a model that fails
    its audit, too; its result is not a score. trust_plugin: run a plug-in that a recipe file or a run names even if the
    user has never named it. display: receives the events of the training. settings: those of TrainSettings, such as
    budget="5min", lr=1e-3, seed=1.

    Raises BadInput, if possible before anything is read; Failed if the model fails its audit or the training diverges.
    """
    from litmus.comparison.report.run_page import save_run_report  # imports matplotlib, which `evaluate` does not need

    train_settings = settings_from(settings)
    if name is not None:
        check_name(name, "a run's name")
    whole, data_settings, start = _resolve(recipe, data, size, overrides, trust_plugin)
    check_trained(whole, train_settings.batch, train_settings.context)
    pick_device(train_settings.device)
    default = whole.name if start is None else f"{real_path(start.folder).name}-tuned"
    target = Path(folder or Path(runs) / (name or default))
    display = display or Display()
    source = recipe if isinstance(recipe, str | os.PathLike) else whole.name
    reports: list[AuditReport] = []

    def audit_first(resolved: Recipe, run: Path) -> None:
        """Audit the model, unless the run folder holds its audit, and save the report before the training starts."""
        report = AuditReport.load(run, resolved)
        if report is None:
            report = audit(resolved, quick=True)
            report.save(run, resolved)
        if not report.passed and not keep_failed:
            raise Failed(
                f"{resolved.name} {report.mark()}; see: litmus audit {os.fspath(source)}, or train it all the same: "
                f"--keep-failed"
            )
        if report.no_forward:
            raise Failed(
                f"{resolved.name} has no working forward pass, so that nothing can be trained: {report.no_forward}"
            )
        display.log(report.mark() or "passes its audit")
        reports.append(report)

    result = train_run(
        whole,
        data_settings,
        train_settings,
        target,
        start=start,
        gate=audit_first,
        sample=sample_text,
        display=display,
    )
    return Run(target, result, reports[-1], save_run_report(target))


def plan(
    recipe: Source | Run,
    data: DataSettings | str | Path | None = None,
    *,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    trust_plugin: bool = False,
    **settings: Any,
) -> Plan:
    """The plan of the training that `train` with these arguments would make: sizes, FLOPs, memory, schedule."""
    train_settings = settings_from(settings)
    whole, data_settings, start = _resolve(recipe, data, size, overrides, trust_plugin)
    require_forward(whole)
    return make_plan(whole, data_settings, train_settings, start=start)


evaluate = evaluate_run


def replies(
    run: Run | str | Path,
    *,
    count: int = 50,
    max_new_tokens: int = 30,
    toxic_words: str | Path | None = None,
    seed: int = 0,
    best: bool = False,
    device: str = "auto",
    trust_plugin: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> Replies:
    """Let a run on threads reply to `count` held-out contexts: whether replies end, repeat themselves and echo.

    toxic_words: a file of words and phrases, one a line, whose use is counted.
    """
    words = None if toxic_words is None else read_word_list(Path(toxic_words))
    loaded = load_run(Path(run), best=best, trust_plugin=trust_plugin, log=log)
    data = held_out_text(loaded, None, log)
    model = loaded.model.to(pick_device(device)).eval()
    with plugin_faults(model.recipe, "answering with"):
        return reply_to_held_out(
            model, data, replies=count, max_new_tokens=max_new_tokens, toxic_words=words, seed=seed
        )


def saved_audit(run: Run | str | Path) -> AuditReport | None:
    """The audit in a run folder, None if there is none, it is damaged, or it is about another model."""
    folder = Path(run)
    return AuditReport.load(folder, read_config(folder).recipe)


def _resolve(
    source: Source | Run,
    data: DataSettings | str | Path | None,
    size: str | None,
    overrides: Mapping[str, Any] | None,
    trust_plugin: bool,
) -> tuple[Recipe, DataSettings, LoadedRun | None]:
    """The resolved recipe, the data, and the run to start from if `source` is one."""
    if not isinstance(data, DataSettings):
        data = DataSettings() if data is None else DataSettings(corpus=str(data))
    if not isinstance(source, Run):
        is_run = isinstance(source, str | Path) and Path(source).is_dir() and not is_recipe(str(source))
        if not is_run:
            return resolve(source, size=size, overrides=overrides, trust_plugin=trust_plugin), data, None
    assert isinstance(source, str | Path | Run)
    if size or overrides or "tokenizer" in data.model_fields_set:
        raise BadInput(
            f"{os.fspath(source)} is a run, whose weights fix its size, recipe and tokenizer; leave those options out"
        )
    start = load_run(Path(source), trust_plugin=trust_plugin or isinstance(source, Run))
    data = data_to_continue(start, data if "corpus" in data.model_fields_set else None)
    return start.model.recipe, data, start
