"""The audit of foreign code in a process of its own: it may hang, crash or be killed, and the audit goes on."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import torch

from litmus import process
from litmus.audit.check import Evidence
from litmus.audit.checks import CHECKS, FORWARD, concluded
from litmus.audit.opening import Request
from litmus.audit.report import Finding
from litmus.audit.running import LIMIT, Opened, not_made, run
from litmus.errors import BadInput
from litmus.fork_server import start_process
from litmus.model.plugins import expendable
from litmus.runtime.memory import limit_memory

GRACE = 30.0
"""Seconds beyond a check's own limit after which its process is ended: it first has to start and import torch."""


def run_apart(request: Request) -> Iterator[Opened | Finding]:
    """What `run` yields, made elsewhere; where that process ends, a finding says so and a new process goes on."""
    left = [FORWARD.name, *request.checks]
    opened = False
    while left:
        answers = Answers(replace(request, checks=tuple(name for name in left if name != FORWARD.name)))
        for item in answers:
            if isinstance(item, Opened):
                if not opened:
                    yield item
                opened = True
            elif item.name == left[0]:  # the forward pass comes again with each new process
                del left[0]
                yield item
        if not left:
            return
        if not opened:
            yield Opened(name=request.name, limit=answers.limit)
        opened = True
        broken = left.pop(0)
        yield concluded({FORWARD.name: FORWARD, **CHECKS}[broken], [answers.end()])
        if broken == FORWARD.name:
            yield from (not_made(name) for name in left)
            return


class Answers:
    """A process at work on a request; iterating gives its answers until it ends or takes too long."""

    def __init__(self, request: Request) -> None:
        self.limit = request.limit or LIMIT[not request.quick]
        self.late = False
        self.process = start_process("litmus.audit.isolation", "answer", encoding="utf-8")
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            json.dump(request.to_plain(), stdin)

    def __iter__(self) -> Iterator[Opened | Finding]:
        try:
            while line := self._line():
                kind, _, content = line.partition(" ")
                if kind == "bad_input":
                    raise BadInput(json.loads(content))
                item = (Opened if kind == "opened" else Finding).model_validate_json(content)
                if isinstance(item, Opened):
                    self.limit = item.limit
                yield item
        finally:
            self.process.kill()
            self.process.wait()

    def _line(self) -> str:
        """The next answer, or "" when the process has ended, if need be because it took too long."""
        assert self.process.stdout is not None
        timer = threading.Timer(self.limit + GRACE, self._stop)
        timer.start()
        try:
            return self.process.stdout.readline()
        finally:
            timer.cancel()

    def _stop(self) -> None:
        self.late = True
        self.process.kill()

    def end(self) -> Evidence:
        """How the process ended without having answered."""
        code = self.process.wait()
        if self.late:
            what, mark = f"no result within {self.limit:.0f} s, and it could not be interrupted", "hangs"
        elif code < 0:
            what, mark = f"its process was ended by {process.signal_name(-code)}", "kills its process"
        else:
            what, mark = f"its process ended by itself with exit code {code}", "kills its process"
        return Evidence(
            what, fault=True, mark=mark, meaning="What ends a process here will end trainings and evaluations."
        )


def answer() -> None:
    """The other process: audit what stdin asks for and answer on stdout, one line of JSON for each finding.

    What the audited code prints goes to stderr.
    """
    process.begin()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    torch.set_num_threads(1)  # other threads would take the signals that keep the time limits
    limit_memory()
    expendable()

    def work() -> None:
        try:
            for item in run(Request.from_plain(json.load(sys.stdin))):
                kind = "opened" if isinstance(item, Opened) else "finding"
                print(kind, item.model_dump_json(), file=out, flush=True)
        except BadInput as error:
            print("bad_input", json.dumps(str(error)), file=out, flush=True)

    process.end(process.run(work))
