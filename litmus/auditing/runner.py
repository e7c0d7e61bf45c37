"""Open the target of a request and run its checks, in this process or in subprocesses that may hang or crash."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
from pydantic import BaseModel

from litmus import process
from litmus.auditing.adapters import target_of
from litmus.auditing.check import Evidence, crash_evidence, run_check, to_finding
from litmus.auditing.checks import CHECKS, FORWARD
from litmus.auditing.report import Finding
from litmus.auditing.sources import is_named_model, open_named_model
from litmus.auditing.target import AuditTarget
from litmus.errors import BadInput, Failed
from litmus.fork_server import start_process
from litmus.limits import TimeLimitExceeded, patience, timeout
from litmus.model import Decoder, Recipe, resolve
from litmus.model.plugins import disable_trial_runs, plugin_code, run_plugin
from litmus.model.recipe import validated
from litmus.runtime.memory import limit_memory
from litmus.training.run.loading import load

LIMIT_SECONDS = (60.0, 240.0)
"""Time limit of one check (quick, full), unless the model is so slow that `MIN_FORWARD_PASSES` take longer."""

MIN_FORWARD_PASSES = 1500
"""The time limit of a check is at least the time of this many forward passes of 32 tokens."""

PRELOAD = ("litmus.auditing.runner", "torch._dynamo")
"""Modules that a subprocess needs."""

MAX_PROCESSES = 3
"""Subprocesses that share the checks of a model: causality takes about half of the time of all."""

STARTUP_SECONDS = 30.0
"""Added to a check's time limit before its subprocess is killed: the subprocess first has to import torch."""


@dataclass(frozen=True)
class Request:
    """What to audit and how; `limit` is in seconds per check, None for a limit that fits the model."""

    source: Any
    checks: tuple[str, ...]
    quick: bool = False
    size: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    limit: float | None = None
    trust_plugin: bool = False
    vocab_size: int | None = None
    context: int | None = None

    @property
    def name(self) -> str:
        """A name for the target before it is open."""
        if isinstance(self.source, Recipe):
            return self.source.name
        if isinstance(self.source, Mapping):
            return str(self.source.get("name", "unnamed"))
        if is_named_model(self.source):
            return Path(str(self.source)).name
        if isinstance(self.source, (str, Path)):
            return Path(self.source).stem
        if isinstance(self.source, Decoder):
            return self.source.recipe.name
        return getattr(self.source, "__name__", type(self.source).__name__)

    @property
    def is_live(self) -> bool:
        """Whether the source is a model, or a function, that only this process has."""
        return not isinstance(self.source, (Recipe, Mapping, str, Path))

    @property
    def runs_foreign_code(self) -> bool:
        """Whether opening the target may run code from a file, as opposed to code that this process already has."""
        if isinstance(self.source, Recipe):
            return self.source.plugin is not None
        if isinstance(self.source, (str, Path)):
            return (
                is_named_model(self.source)
                or Path(self.source).suffix in (".py", ".yaml", ".yml")
                or Path(self.source).is_dir()
            )
        return False

    @property
    def default_limit(self) -> float:
        return self.limit or LIMIT_SECONDS[not self.quick]

    def to_plain(self) -> dict[str, Any]:
        """JSON-serializable form for the subprocess, with a recipe's plug-in source; not for live models."""
        plain = {**vars(self), "source": str(self.source), "overrides": dict(self.overrides)}
        if isinstance(self.source, Recipe):
            plugin = self.source.plugin
            code = None if plugin is None else plugin_code(plugin).decode("latin-1")
            plain |= {"source": self.source.to_dict(), "code": code}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Request:
        """Inverse of `to_plain`; runs the plug-in code that came with the request."""
        source, code = plain["source"], plain.get("code")
        if isinstance(source, dict):
            if code is not None:
                run_plugin(code.encode("latin-1"), Path(source["plugin"]["path"]))
            source = validated(source)
        own = {key: value for key, value in plain.items() if key != "code"}
        return cls(**{**own, "source": source, "checks": tuple(plain["checks"])})


class TargetInfo(BaseModel):
    """First item of the stream: the target's name, how it was changed for the audit, and seconds per check."""

    name: str
    note: str = ""
    limit: float


def open_target(request: Request) -> AuditTarget:
    """Build or load the requested model; BadInput if there is nothing that can be audited."""
    source, quick = request.source, request.quick
    sizes = {"vocab_size": request.vocab_size, "context": request.context}
    if is_named_model(source):
        if request.size or request.overrides:
            raise BadInput(f"{source} is a model that is already built; size and keys belong to recipes")
        model, note = open_named_model(source, trusted=request.trust_plugin)
        target = target_of(model, quick=quick, **sizes)
        target.name, target.note = request.name, "; ".join(text for text in (note, target.note) if text)
        return target
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        folder = Path(source)
        if request.size or request.overrides:
            raise BadInput(f"{folder} holds a model that is already built; audit its recipe to change size or keys")
        return target_of(load(folder, trust_plugin=request.trust_plugin), quick=quick)
    if isinstance(source, (str, Path, Mapping, Recipe)):
        trusted = request.trust_plugin
        recipe = resolve(source, size=request.size, overrides=request.overrides, trust_plugin=trusted)
        return target_of(recipe, quick=quick)
    return target_of(source, quick=quick, **sizes)


def run(request: Request, checks: Iterable[str] | None = None) -> Iterator[TargetInfo | Finding]:
    """Open the target and run each check in this process; every exception but BadInput becomes a finding.

    checks: replaces those of the request; taken one at a time.
    """
    checks = request.checks if checks is None else checks
    limit, doing = request.default_limit, "the model cannot be built"
    try:
        with timeout(limit):
            target = open_target(request)
            _ = target.model
            doing = "it crashed"
            limit = request.limit or max(limit, time_limit(target))
    except BadInput as error:
        if error.__cause__ is None:
            raise
        # A plug-in file that does not run: its own error is a finding about it.
        yield from opening_failure(request, crash_evidence(error.__cause__, limit, doing))
        yield from map(skipped, checks)
        return
    except (TimeLimitExceeded, Exception, SystemExit) as error:
        own = error.__cause__ if isinstance(error, Failed) and error.__cause__ is not None else error
        yield from opening_failure(request, crash_evidence(own, limit, doing))
        yield from map(skipped, checks)
        return
    yield TargetInfo(name=target.name, note=target.note, limit=limit)
    threads = torch.get_num_threads()
    if not target.live:
        torch.set_num_threads(1)  # matrices this small are slower with more, much slower next to other work
    try:
        forward = run_check(FORWARD, target, limit)
        yield forward
        for name in checks:
            finding = run_check(CHECKS[name], target, limit) if forward.status == "pass" else skipped(name)
            yield finding
            target.quick = target.quick or finding.status == "fail"  # a model that has to change needs no more cases
    finally:
        torch.set_num_threads(threads)


def time_limit(target: AuditTarget) -> float:
    """Seconds that `MIN_FORWARD_PASSES` take for this model on this machine."""
    tokens = target.tokens(1, min(32, target.context))
    with torch.no_grad():
        started = time.perf_counter()
        target.model(tokens)
    return MIN_FORWARD_PASSES * (time.perf_counter() - started)


def opening_failure(request: Request, evidence: Evidence) -> Iterator[TargetInfo | Finding]:
    """The first two items when the model cannot be built or run: the check of the forward pass fails."""
    yield TargetInfo(name=request.name, limit=request.default_limit)
    yield to_finding(FORWARD, [evidence])


def skipped(name: str) -> Finding:
    return Finding(name=name, status="not applicable", detail="not run, because the forward pass fails")


def run_in_subprocesses(
    request: Request, jobs: int = 1, group: WorkerGroup | None = None
) -> Iterator[TargetInfo | Finding]:
    """The items of `run`, checks in the order in which they end: each of `jobs` subprocesses takes the next that waits.

    A check that ends its process becomes a finding that says so, and a new process goes on. CancelledError is raised
    after the group was stopped.
    """
    group = group or WorkerGroup()
    checks = SimpleQueue[str]()
    for name in request.checks:
        checks.put(name)
    workers = [group.start(request) for _ in range(max(1, min(jobs, MAX_PROCESSES, len(request.checks))))]
    over = threading.Event()

    def take_checks(number: int, items: SimpleQueue[Finding | BaseException | None]) -> None:
        try:
            while not over.is_set():
                name = checks.get_nowait()
                if workers[number].ended:
                    workers[number] = group.start(request)
                items.put(workers[number].check(name))
        except Empty:
            pass
        except BaseException as error:
            items.put(error)
        finally:
            group.end(workers[number])
            items.put(None)

    try:
        info, forward = workers[0].info, workers[0].forward
        group.require_running()
        yield info
        yield forward
        if forward.status != "pass":
            yield from map(skipped, request.checks)
            return
        items = SimpleQueue[Finding | BaseException | None]()
        for number in range(len(workers)):
            threading.Thread(target=take_checks, args=(number, items), daemon=True).start()
        working = len(workers)
        while working:
            item = items.get()
            group.require_running()
            if isinstance(item, BaseException):
                raise item
            working -= item is None
            if item is not None:
                yield item
    finally:
        over.set()
        for worker in workers:
            group.end(worker)


class WorkerGroup:
    """The subprocesses of audits that are stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Worker] = set()
        self._stopped = False

    def start(self, request: Request) -> Worker:
        """A new subprocess; CancelledError after `stop`."""
        with self._lock:
            self.require_running()
            worker = Worker(request)
            self._running.add(worker)
        return worker

    def end(self, worker: Worker) -> None:
        worker.end()
        self._running.discard(worker)

    def stop(self) -> None:
        """End all subprocesses, and let none begin."""
        with self._lock:
            self._stopped = True
            for worker in self._running:
                worker.process.kill()

    def require_running(self) -> None:
        if self._stopped:
            raise CancelledError


class Worker:
    """A subprocess that opens the target of a request and runs the checks that it is given."""

    def __init__(self, request: Request) -> None:
        self.limit = request.default_limit
        self.timed_out = False
        self.process = start_process("litmus.auditing.runner", "worker_main", encoding="utf-8", preload=PRELOAD)
        self._send(json.dumps(replace(request, checks=()).to_plain()))
        self._request = request

    @cached_property
    def info(self) -> TargetInfo:
        """The target, as soon as it is open; BadInput if there is nothing that can be audited."""
        item = self._item()
        if isinstance(item, TargetInfo):
            self.limit = item.limit
            return item
        return TargetInfo(name=self._request.name, limit=self.limit)

    @cached_property
    def forward(self) -> Finding:
        """The finding of the check of the forward pass."""
        _ = self.info
        item = self._item()
        return item if isinstance(item, Finding) else to_finding(FORWARD, [self.exit_evidence()])

    def check(self, name: str) -> Finding:
        """Run one check; how the process ended is the finding if it ends before it has one."""
        _ = self.forward
        self._send(name)
        item = self._item()
        return item if isinstance(item, Finding) else to_finding(CHECKS[name], [self.exit_evidence()])

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended; reading its output says so
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def _item(self) -> TargetInfo | Finding | None:
        """The next item; None when the process has ended, or was killed because of the time limit."""
        assert self.process.stdout is not None
        timer = threading.Timer((self.limit + STARTUP_SECONDS) * patience(), self._kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        kind, _, content = line.partition(" ")
        if kind == "bad_input":
            raise BadInput(json.loads(content))
        if not line:
            self.process.wait()
            return None
        return (TargetInfo if kind == "info" else Finding).model_validate_json(content)

    def _kill(self) -> None:
        self.timed_out = True
        self.process.kill()

    def exit_evidence(self) -> Evidence:
        """How the process ended before it sent all of its findings."""
        code = self.process.wait()
        if self.timed_out:
            what, mark = f"no result within {self.limit:.0f} s, and it could not be interrupted", "hangs"
        elif code < 0:
            what, mark = f"its process was ended by {process.signal_name(-code)}", "kills its process"
        else:
            what, mark = f"its process ended by itself with exit code {code}", "kills its process"
        return Evidence(
            what, fault=True, mark=mark, meaning="It will end the process of a training or an evaluation, too."
        )


def worker_main() -> None:
    """Entry point of the subprocess: a request, then names of checks, from stdin; items to stdout, one JSON line each.

    The audited code reads nothing, and its output goes to stderr.
    """
    process.begin()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())

    torch.set_num_threads(1)  # other threads would receive the signals of the time limits
    limit_memory()
    disable_trial_runs()

    def work() -> None:
        try:
            checks = (line.strip() for line in iter(lines.readline, ""))
            for item in run(Request.from_plain(json.loads(lines.readline())), checks):
                kind = "info" if isinstance(item, TargetInfo) else "finding"
                print(kind, item.model_dump_json(), file=out, flush=True)
        except BadInput as error:
            print("bad_input", json.dumps(str(error)), file=out, flush=True)

    process.end(process.run(work))
