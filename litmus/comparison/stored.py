"""Finished and unfinished runs and comparisons in a folder of runs: find, list, read and remove them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from litmus.auditing import AuditReport
from litmus.comparison.compare import PLAN, REPORT, RESULT, TRIALS
from litmus.comparison.results import ComparisonResult
from litmus.comparison.trial import AUDITS, OUTCOME, SPEC, trial_run
from litmus.comparison.verdicts import judge
from litmus.data.tokens.tokenizer import FILE_NAME as TOKENIZER_FILE
from litmus.errors import BadInput, nearest, shown
from litmus.files import MANIFEST, file_names, reading, real_path, remove_folder, writing
from litmus.locks import folder_lock
from litmus.model.plugins import PLUGIN_FILE
from litmus.model.storage import RECIPE, WEIGHTS
from litmus.training.run.checkpoints import CHECKSUMS_0_1, OPTIMIZER, STATE
from litmus.training.run.config import AUDIT, CHECKPOINTS, METRICS, RUN, TOKENIZER, RunConfig, read_config
from litmus.training.run.result import RESULT as RUN_RESULT
from litmus.training.run.result import RunResult, read_result

Kind = Literal["run", "comparison"]
Status = Literal["finished", "not finished", "imported", "compressed", "damaged"]

_CHECKPOINT_FILES = (RECIPE, WEIGHTS, PLUGIN_FILE, OPTIMIZER, STATE, MANIFEST, CHECKSUMS_0_1)
_ANY = r"[^/]+"


def _one_of(*names: str) -> str:
    return f"(?:{'|'.join(map(re.escape, names))})"


_RUN_FILES = (
    f"(?:{_one_of(RUN, RECIPE, METRICS, RUN_RESULT, AUDIT, REPORT)}"
    f"|{TOKENIZER}/{re.escape(TOKENIZER_FILE)}|{CHECKPOINTS}/\\d+/{_one_of(*_CHECKPOINT_FILES)}"
    f"|tensorboard/events\\.out\\.tfevents\\.{_ANY})"
)
_TRIAL_FOLDER = f"{TRIALS}/(?:arm|noise|sweep)/{_ANY}/seed-\\d+(?:/lr-{_ANY})?"
_LOCK = r"(?:.*/)?\.(?:[^/]+\.)?lock"
_FILES: dict[Kind, re.Pattern[str]] = {
    "run": re.compile(f"{_RUN_FILES}|{_LOCK}"),
    "comparison": re.compile(
        f"{_one_of(PLAN, RESULT, REPORT)}|{AUDITS}/{_ANY}/{re.escape(AUDIT)}"
        f"|{_TRIAL_FOLDER}/(?:{_one_of(SPEC, OUTCOME, PLUGIN_FILE)}|run/{_RUN_FILES})|{_LOCK}"
    ),
}
"""The relative paths of the files that Litmus writes into a run or a comparison."""


@dataclass(frozen=True)
class StoredRun:
    """A run folder. result: None if the training has not finished, or never began as in an imported run."""

    folder: Path
    config: RunConfig
    result: RunResult | None
    audit: AuditReport | None


@dataclass(frozen=True)
class StoredComparison:
    """A comparison's folder. result: None if the comparison has not finished. finished: number of finished trials."""

    folder: Path
    result: ComparisonResult | None
    finished: int


@dataclass(frozen=True)
class Entry:
    """One line of the list of runs and comparisons.

    date: when a run began or a comparison ended, in UTC. arms: the recipe of a run, or the arms of a comparison. score:
    bits per byte of a run. verdicts: word by arm. note: why there is no score, or what is damaged. bytes: on disk.
    """

    name: str
    kind: Kind
    status: Status
    bytes: int
    date: str | None = None
    arms: Sequence[str] = ()
    score: float | None = None
    verdicts: dict[str, str] = field(default_factory=dict)
    note: str = ""


def kind_of(folder: Path) -> Kind | None:
    """What a folder is by the files in it; None for anything else."""
    if os.path.lexists(folder / RUN) or ((folder / METRICS).is_file() and (folder / CHECKPOINTS).is_dir()):
        return "run"
    parts = (folder / TRIALS).is_dir() or (folder / AUDITS).is_dir()
    if os.path.lexists(folder / RESULT) or (parts and os.path.lexists(folder / PLAN)):
        return "comparison"
    return None


def find(name: str, runs: Path) -> Path:
    """The folder of a run or comparison: its name in `runs`, or a path; BadInput if there is none."""
    inside = name not in ("", ".", "..") and "\0" not in name and os.sep not in name
    folder = runs / name if inside else Path(name)
    with reading(folder):
        if name and "\0" not in name and folder.is_dir() and kind_of(folder) is not None:
            return folder
    known = [path.name for path in folders(runs)] if runs.is_dir() else []
    if not known:
        raise BadInput(f"{shown(name)} is no run or comparison; {runs} holds none")
    raise BadInput(f"{shown(name)} is no run or comparison in {runs}; {nearest(name, known)}")


def folders(runs: Path) -> list[Path]:
    """The folders of all runs and comparisons in `runs`, sorted by name; BadInput if `runs` is no folder."""
    if not runs.is_dir():
        raise BadInput(
            f"there is no folder of runs {shown(str(runs))}; train or compare something, or name it by --runs"
        )
    with reading(runs):
        found = sorted(path for path in runs.iterdir() if not path.name.startswith(".") and path.is_dir())
        return [path for path in found if os.access(path, os.X_OK) and kind_of(path) is not None]


def read(folder: Path) -> StoredRun | StoredComparison:
    """What a run or comparison stores; BadInput if its files are damaged."""
    if kind_of(folder) == "comparison":
        result = ComparisonResult.load(folder / RESULT) if os.path.lexists(folder / RESULT) else None
        return StoredComparison(folder, result, sum(1 for _ in (folder / TRIALS).rglob(OUTCOME)))
    config = read_config(folder)
    run = read_result(folder)
    if run is None and os.path.lexists(folder / RUN_RESULT):
        raise BadInput(f"{folder / RUN_RESULT} is damaged; the command in {folder / RUN} writes it again")
    return StoredRun(folder, config, run, AuditReport.load(folder, config.recipe))


def entries(runs: Path) -> list[Entry]:
    """All runs and comparisons in `runs`, the newest first; damaged ones are listed as such, at the end."""
    found = sorted(map(_entry, folders(runs)), key=lambda entry: entry.name)
    return sorted(found, key=lambda entry: entry.date or "", reverse=True)


def _entry(folder: Path) -> Entry:
    kind = kind_of(folder)
    assert kind is not None
    try:
        stored = read(folder)
        if isinstance(stored, StoredRun):
            return _run_entry(stored)
        return _comparison_entry(stored)
    except (BadInput, OSError) as error:
        return Entry(folder.name, kind, "damaged", size_on_disk(folder), note=str(error))


def _run_entry(run: StoredRun) -> Entry:
    status: Status = "finished" if run.result else "imported" if run.config.imported else "not finished"
    if run.config.imported and run.config.start:
        status = "finished" if run.result else "not finished"
    if run.config.compression:
        status = "compressed"
    failed = run.audit is not None and not run.audit.passed
    return Entry(
        run.folder.name,
        "run",
        status,
        size_on_disk(run.folder),
        date=utc(run.config.started),
        arms=[str(run.config.recipe.get("name", "?"))],
        score=None if run.result is None or failed else run.result.evaluation.bits_per_byte,
        note=run.audit.mark() if run.audit is not None else "",
    )


def _comparison_entry(comparison: StoredComparison) -> Entry:
    folder, result = comparison.folder, comparison.result
    if result is None:
        note = f"{comparison.finished} trials finished"
        return Entry(folder.name, "comparison", "not finished", size_on_disk(folder), note=note)
    return Entry(
        folder.name,
        "comparison",
        "finished",
        size_on_disk(folder),
        date=utc(str(result.context.get("date", ""))),
        arms=result.arms,
        verdicts={verdict.arm: verdict.word for verdict in judge(result)},
    )


def utc(date: str) -> str | None:
    """A stored date as 2026-11-26 08:00 UTC; None if it is not one."""
    with contextlib.suppress(ValueError):
        return f"{datetime.fromisoformat(date.replace(' UTC', '+00:00')).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return None


def size_on_disk(folder: Path) -> int:
    """The bytes of all files below `folder`, linked ones once; files that cannot be read do not count."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(place, name))
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def check_removable(folder: Path) -> None:
    """BadInput if `folder` is a link, or the run of a trial, which its comparison needs."""
    if folder.is_symlink():
        raise BadInput(f"{folder} is a link; remove the link yourself, or name the folder that it leads to")
    if os.path.lexists(real_path(folder).parent / SPEC):
        raise BadInput(f"{folder} is the run of a trial; remove the comparison that it belongs to")


def remove(folder: Path) -> list[str]:
    """Delete what Litmus wrote into a run or comparison, and the folder if nothing else is in it.

    Returns the files that Litmus did not write, which stay with their folders. BadInput if another process works in it.
    """
    kind = kind_of(folder)
    assert kind is not None
    with contextlib.ExitStack() as locks:
        for place in [folder, *_trial_folders(folder)]:
            locks.enter_context(folder_lock(place, "removing"))
        with writing(folder):
            found = sorted(file_names(folder))
            ours = [name for name in found if _FILES[kind].fullmatch(name)]
            others = [name for name in found if name not in ours]
            if not others:
                remove_folder(folder)
                return []
            # What shows that the folder is a run or a comparison goes last: a kill leaves something to remove again.
            for name in sorted(ours, key=lambda name: name in (RUN, PLAN, RESULT)):
                (folder / name).unlink(missing_ok=True)
            for path in sorted((path for path in folder.rglob("*") if _is_folder(path)), reverse=True):
                with contextlib.suppress(OSError):
                    path.rmdir()  # one that holds a file, a new one too, stays
    return others


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _trial_folders(folder: Path) -> Iterator[Path]:
    """The folders of a comparison's trials, in which a process may still be saving."""
    if (folder / TRIALS).is_dir() and not (folder / TRIALS).is_symlink():
        yield from sorted(path.parent for path in (folder / TRIALS).rglob(SPEC))


@dataclass(frozen=True)
class Scored:
    """One finished training, alone or as a trial of a comparison.

    folder: its run. text: fingerprint of the data, and bytes of held-out text that the score is over. mark: why the
    score does not count, such as a failed audit.
    """

    name: str
    folder: Path
    lr: float
    seed: int
    result: RunResult
    text: tuple[str, int]
    mark: str


def scored(stored: StoredRun | StoredComparison) -> list[Scored]:
    """The finished trainings of a run or of a comparison's arms; BadInput if there is none."""
    found = list(_scored_trials(stored) if isinstance(stored, StoredComparison) else _scored_run(stored))
    if not found:
        raise BadInput(f"{stored.folder} has no finished training to compare; the same command finishes it")
    return found


def _scored_run(run: StoredRun) -> Iterator[Scored]:
    if run.result is not None:
        settings = run.config.training
        text = run.config.data_fingerprint, run.result.evaluation.bytes
        mark = "" if run.audit is None else run.audit.mark()
        yield Scored(run.folder.name, run.folder, settings.lr, settings.order_seed, run.result, text, mark)


def _scored_trials(comparison: StoredComparison) -> Iterator[Scored]:
    result, name = comparison.result, comparison.folder.name
    for arm in result.arms if result else ():
        assert result is not None
        for trial in result.trials_of(arm):
            if trial.failed is None:
                text = str(result.context.get("fingerprint", "unknown")), trial.evaluation.bytes
                mark = result.arm_notes.get(arm, "")
                run = comparison.folder / trial_run(trial)
                yield Scored(f"{name}: {arm}, seed {trial.seed}", run, trial.lr, trial.seed, trial.run, text, mark)


def check_same_text(trainings: Sequence[Scored]) -> None:
    """BadInput, which names two of the trainings, unless all were scored on the same held-out text."""
    first = trainings[0]
    for other in trainings[1:]:
        if other.text != first.text:
            raise BadInput(
                f"{first.name} was scored on {first.text[1]:,} bytes of the data {first.text[0][:12]} and {other.name} "
                f"on {other.text[1]:,} bytes of {other.text[0][:12]}; only scores on the same text can be compared"
            )
