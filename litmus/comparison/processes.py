"""Runs trials as processes, some at a time, and passes on what they say of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from litmus.comparison.results import TrialResult
from litmus.comparison.trial import GRACE, SPEC, TRUST, TrialSpec, finished
from litmus.errors import BadInput, Failed
from litmus.files import write_atomically
from litmus.fork_server import Process, start_process
from litmus.model.plugins import COPY, plugin_code
from litmus.model.recipe import PluginSource
from litmus.process import BAD_INPUT, DEBUG, signal_name

Listener = Callable[[TrialSpec, dict[str, Any]], None]
"""Told of a trial's progress: {"share": ..., "loss": ...}, {"note": ...} or {"done": True}."""


def run_all(specs: Sequence[TrialSpec], comparison: Path, *, jobs: int, listen: Listener) -> list[TrialResult]:
    """The results of all trials, in the order given; `jobs` run at a time, finished ones are read from disk.

    Stops every process on an interruption (each saves a checkpoint first) or when one finds bad input.
    """
    results: dict[str, TrialResult] = {}
    for spec in specs:
        if (known := finished(spec, comparison)) is not None:
            results[spec.place] = known
            listen(spec, {"done": True})
    workers = _Workers(comparison, listen)
    with ThreadPoolExecutor(min(jobs, max(1, len(specs)))) as pool:
        try:
            waiting: dict[Future[TrialResult], TrialSpec] = {
                pool.submit(workers.run, spec): spec for spec in specs if spec.place not in results
            }
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    results[waiting.pop(future).place] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            workers.stop()
            raise
    return [results[spec.place] for spec in specs]


class _Workers:
    """The processes that are running."""

    def __init__(self, comparison: Path, listen: Listener) -> None:
        self._comparison, self._listen = comparison, listen
        self._lock = threading.Lock()
        self._running: set[Process] = set()
        self._stopped = False

    def run(self, spec: TrialSpec) -> TrialResult:
        """Run one trial in a process of its own, or what is left of it; Failed when the process does not end well."""
        process = self._start(spec)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        said: deque[str] = deque(maxlen=200)  # the end of what it wrote to stderr
        reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
        reader.start()
        fault = ""
        for line in process.stdout:
            figures = json.loads(line)
            fault = figures.get("fault", fault)
            self._listen(spec, figures)
        code = process.wait()
        reader.join()
        process.stdin.close()
        with self._lock:
            self._running.discard(process)
        if code != 0 and os.environ.get(DEBUG):
            self._listen(spec, {"note": "".join(said)})
        if code == BAD_INPUT:
            raise BadInput(fault)
        result = finished(spec, self._comparison) if code == 0 else None
        if result is None:
            why = fault or (said[-1].strip() if said else "")
            raise Failed(
                f"the trial of {spec.arm!r} with seed {spec.seed} {_ended(code)}{': ' if why else ''}{why}; "
                f"the same command goes on from its last checkpoint"
            )
        self._listen(spec, {"done": True})
        return result

    def _start(self, spec: TrialSpec) -> Process:
        folder = self._comparison / spec.place
        write_atomically(folder / SPEC, spec.model_dump_json(indent=1))
        arguments = [str(folder)]
        if spec.recipe.get("plugin"):
            # The trial runs the code that was audited, whatever becomes of the file meanwhile.
            write_atomically(folder / COPY, plugin_code(PluginSource.model_validate(spec.recipe["plugin"])))
            arguments.append(TRUST)
        with self._lock:
            if self._stopped:
                raise Failed("the comparison is stopping")
            # Its stdin closes when this process ends, however it ends; the trial then saves and ends too.
            process = start_process(
                "litmus.comparison.trial",
                "main",
                *arguments,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                preload=["torch._dynamo"],
                outlives_parent=True,
            )
            self._running.add(process)
        return process

    def stop(self) -> None:
        """Ask every process to save and end, and wait for it; kill what does not, or all on another interruption."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        until = time.monotonic() + GRACE
        try:
            for process in running:
                process.wait(max(0.0, until - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for process in running:
                process.kill()


def _ended(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with code {code}"
    return f"was ended by {signal_name(-code)}"
