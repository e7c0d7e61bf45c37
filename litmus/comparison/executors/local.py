"""Runs trials as local processes, several at a time."""

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

from litmus.comparison.audit_gate import AuditGate
from litmus.comparison.results import TrialResult
from litmus.comparison.trial import GRACE_SECONDS, SPEC, TRUST, TrialSpec, adopt, stored_result
from litmus.errors import BadInput, Failed
from litmus.files import write_atomically
from litmus.fork_server import Process, start_process
from litmus.model.plugins import PLUGIN_FILE, plugin_code
from litmus.model.recipe import PluginSource
from litmus.process import BAD_INPUT, DEBUG, signal_name

EventHandler = Callable[[TrialSpec, dict[str, Any]], None]
"""Called with a trial's progress: {"fraction": ..., "loss": ...}, {"note": ...}, {"done": True}, {"left_out": True}."""


def run_trials(
    specs: Sequence[TrialSpec], folder: Path, *, jobs: int, on_event: EventHandler, gate: AuditGate | None = None
) -> list[TrialResult]:
    """The results of all trials, in the order of `specs`; `jobs` run at a time.

    Finished ones are read from `folder`, or taken over from another comparison in the same folder. On an interruption
    or bad input all processes are stopped; each saves a checkpoint first. `on_event` is called from several threads.

    gate: its missing audits take part in the `jobs` and come first; trials of arms that it does not admit are left out.
    """
    results: dict[str, TrialResult] = {}
    for spec in specs:
        adopt(spec, folder)
        if (result := stored_result(spec, folder)) is not None:
            results[spec.subfolder] = result
            on_event(spec, {"done": True})
    processes = _Processes(folder, on_event)
    audits = [] if gate is None else gate.missing
    waiting = [spec for spec in specs if spec.subfolder not in results]
    running: dict[Future[Any], TrialSpec | str] = {}

    def start_next() -> bool:
        """Start the next audit or trial; False if none can begin now."""
        if gate is not None and audits:
            arm = audits.pop(0)
            running[pool.submit(gate.audit, arm)] = arm
            return True
        ready = (spec for spec in waiting if gate is None or spec.arm in gate.admitted)
        if (spec := next(ready, None)) is None:
            return False
        waiting.remove(spec)
        running[pool.submit(processes.run, spec)] = spec
        return True

    with ThreadPoolExecutor(jobs) as pool:
        try:
            while True:
                while len(running) < jobs and start_next():
                    pass
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    done, result = running.pop(future), future.result()
                    if isinstance(done, TrialSpec):
                        results[done.subfolder] = result
                for spec in [spec for spec in waiting if gate is not None and spec.arm in gate.skipped]:
                    waiting.remove(spec)
                    on_event(spec, {"left_out": True})
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            if gate is not None:
                gate.stop()
            processes.stop()
            raise
    return [results[spec.subfolder] for spec in specs if spec.subfolder in results]


class _Processes:
    """The running processes."""

    def __init__(self, folder: Path, on_event: EventHandler) -> None:
        self._folder, self._on_event = folder, on_event
        self._lock = threading.Lock()
        self._running: set[Process] = set()
        self._stopped = False

    def run(self, spec: TrialSpec) -> TrialResult:
        """Run, or resume, one trial in a process; Failed if the process does not end with a result."""
        process = self._start(spec)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        last_lines: deque[str] = deque(maxlen=200)
        reader = threading.Thread(target=last_lines.extend, args=(process.stderr,), daemon=True)
        reader.start()
        error = ""
        for line in process.stdout:
            event = json.loads(line)
            error = event.get("error", error)
            self._on_event(spec, event)
        code = process.wait()
        reader.join()
        process.stdin.close()
        with self._lock:
            self._running.discard(process)
        if code != 0 and os.environ.get(DEBUG):
            self._on_event(spec, {"note": "".join(last_lines)})
        if code == BAD_INPUT:
            raise BadInput(error)
        result = stored_result(spec, self._folder) if code == 0 else None
        if result is None:
            ended = f"ended with code {code}" if code >= 0 else f"was ended by {signal_name(-code)}"
            why = error or (last_lines[-1].strip() if last_lines else "")
            raise Failed(
                f"the trial of {spec.arm!r} with seed {spec.seed} {ended}{': ' if why else ''}{why}; "
                f"the same command continues from its last checkpoint"
            )
        self._on_event(spec, {"done": True})
        return result

    def _start(self, spec: TrialSpec) -> Process:
        folder = self._folder / spec.subfolder
        write_atomically(folder / SPEC, spec.model_dump_json(indent=1))
        arguments = [str(folder)]
        if spec.recipe.get("plugin"):
            # The trial runs the code that was audited, even if the file changes in the meantime.
            write_atomically(folder / PLUGIN_FILE, plugin_code(PluginSource.model_validate(spec.recipe["plugin"])))
            arguments.append(TRUST)
        with self._lock:
            if self._stopped:
                raise Failed("the comparison is stopping")
            process = start_process(
                "litmus.comparison.trial",
                "main",
                *arguments,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                preload=["torch._dynamo"],
                outlives_parent=True,  # it saves and exits when its stdin closes
            )
            self._running.add(process)
        return process

    def stop(self) -> None:
        """Ask every process to save and exit, and wait; kill all after GRACE_SECONDS or on another interruption."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for process in running:
                process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for process in running:
                process.kill()
