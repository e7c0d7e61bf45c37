"""Runs trials as processes, some at a time, and passes on what they say of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from litmus.comparison.results import TrialResult
from litmus.comparison.trial import OUTCOME, SPEC, TrialSpec, finished
from litmus.errors import BadInput, Failed
from litmus.files import write_atomically

Listener = Callable[[TrialSpec, dict[str, Any]], None]
"""Told of a trial's progress: {"share": ..., "loss": ...}, {"note": ...} or {"done": True}."""


def run_all(specs: Sequence[TrialSpec], comparison: Path, *, jobs: int, listen: Listener) -> list[TrialResult]:
    """The results of all trials, in the order given; `jobs` run at a time, finished ones are read from disk.

    Stops every process on an interruption (each saves a checkpoint first) or when one finds bad input.
    """
    running: set[subprocess.Popen[str]] = set()
    results: dict[str, TrialResult] = {}
    with ThreadPoolExecutor(jobs) as pool:
        waiting: dict[Future[TrialResult], TrialSpec] = {}
        try:
            for spec in specs:
                known = finished(spec, comparison)
                if known is not None:
                    results[spec.place] = known
                    listen(spec, {"done": True})
                else:
                    waiting[pool.submit(_run, spec, comparison, listen, running)] = spec
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    results[waiting.pop(future).place] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
    return [results[spec.place] for spec in specs]


def _run(spec: TrialSpec, comparison: Path, listen: Listener, running: set[subprocess.Popen[str]]) -> TrialResult:
    folder = comparison / spec.place
    write_atomically(folder / SPEC, spec.model_dump_json(indent=1))
    command = [sys.executable, "-m", "litmus.comparison.trial", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
    )
    running.add(process)
    assert process.stdout is not None and process.stderr is not None
    complaints: list[str] = []
    reader = threading.Thread(target=lambda stream: complaints.extend(stream), args=(process.stderr,), daemon=True)
    reader.start()
    for line in process.stdout:
        try:
            listen(spec, json.loads(line))
        except ValueError:
            continue  # something a plug-in printed
    code = process.wait()
    reader.join()
    running.discard(process)
    if code == 0:
        listen(spec, {"done": True})
        return TrialResult.model_validate_json((folder / OUTCOME).read_text(encoding="utf-8"))
    if code == 2 and complaints:
        raise BadInput(complaints[-1].strip())
    last = f": {complaints[-1].strip()}" if complaints else ""
    raise Failed(
        f"the trial of {spec.arm!r} with seed {spec.seed} ended with code {code}{last}; "
        f"the same command goes on from its last checkpoint"
    )
