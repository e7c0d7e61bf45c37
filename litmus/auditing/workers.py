"""Subprocesses that run the checks of a request, which may hang, crash or be stopped."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import cached_property
from queue import Empty, SimpleQueue

import torch

from litmus import process
from litmus.auditing.check import Evidence, to_finding
from litmus.auditing.checks import CHECKS, FORWARD
from litmus.auditing.report import Finding
from litmus.auditing.runner import Request, TargetInfo, run, skipped
from litmus.errors import BadInput
from litmus.fork_server import start_process
from litmus.limits import patience
from litmus.model.plugins import disable_trial_runs
from litmus.runtime.memory import limit_memory

MAX_PROCESSES = 3
"""Subprocesses that share the checks of a model: causality takes about half of the time of all."""

LONG_CHECKS = ("causality", "costs as declared", "cache parity", "coverage")
"""The checks that take longest, by their seconds; they start first, so that no process waits for one at the end."""

STARTUP_SECONDS = 30.0
"""Added to a check's time limit before its subprocess is killed: the subprocess first has to import torch."""


def run_in_subprocesses(
    request: Request, jobs: int = 1, group: WorkerGroup | None = None
) -> Iterator[TargetInfo | Finding]:
    """The items of `run`, checks in the order in which they end: each of `jobs` subprocesses takes the next that waits.

    A check that ends its process becomes a finding that says so, and a new process goes on. CancelledError is raised
    after the group was stopped.
    """
    group = group or WorkerGroup()
    checks = SimpleQueue[str]()
    workers = [group.start(request) for _ in range(max(1, min(jobs, MAX_PROCESSES, len(request.checks))))]
    for name in request.checks if len(workers) == 1 else sorted(request.checks, key=starts_later):
        checks.put(name)
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


def starts_later(check: str) -> int:
    """The rank of a check in the order in which several processes start them."""
    return LONG_CHECKS.index(check) if check in LONG_CHECKS else len(LONG_CHECKS)


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
        self.process = start_process("litmus.auditing.workers", "worker_main", encoding="utf-8")
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
