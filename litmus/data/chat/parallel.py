"""The windows of a split, encoded by several processes: each takes a range of the threads and writes files of its own.

The files are then joined in the order of the threads, so that the bytes are those of one process.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from litmus import process
from litmus.data.chat.reading import Targets
from litmus.data.chat.template import ChatTemplate
from litmus.data.chat.threads import Threads
from litmus.data.chat.windows import PARTS, WindowCounts, WindowSettings, WindowWriter
from litmus.data.messages import Log, no_log
from litmus.data.tokens.make_tokenizer import load_tokenizer
from litmus.errors import BadInput, Failed
from litmus.fork_server import Process, start_process

MESSAGES_PER_PROCESS = 100_000
"""Fewer are encoded before another process has started."""


def write_windows(
    folder: Path, split: str, threads: Threads, writer: WindowWriter, log: Log, *, processes: int | None = None
) -> WindowCounts:
    """Write a split's files into `folder`, which holds the tokenizer already; returns the counts.

    processes: one for each MESSAGES_PER_PROCESS messages and core when not given.
    """
    if processes is None:
        processes = threads.counts["messages"][split] // MESSAGES_PER_PROCESS
        if processes > 1:
            from litmus.runtime.hardware import usable_cores  # imports torch, which small corpora can do without

            processes = min(usable_cores() or 1, processes)
    ranges = threads.ranges(split, max(processes, 1))
    if len(ranges) == 1:
        return writer.write(folder, split, threads.of(split), log)
    log(f"encoding the {split} split in {len(ranges)} processes")
    parts = [folder / f"{split}-{number}" for number in range(len(ranges))]
    counts = WindowCounts()
    with contextlib.ExitStack() as stack:
        workers = []
        for part, numbers in zip(parts, ranges, strict=True):
            job = {"folder": str(part), "tokenizer": str(folder), "threads": str(threads.folder), "range": numbers}
            workers.append(_start(job | {"split": split, **_plain(writer)}))
            stack.callback(_end, workers[-1])
        for number, worker in enumerate(workers, 1):
            counts += _result(worker)
            log(f"  {number} of {len(workers)} parts are encoded: {counts.windows:,} windows, {counts.tokens:,} tokens")
    _join(folder, split, parts)
    return counts


def worker_main() -> None:
    """Entry point of a process: a job as JSON from stdin, the counts as JSON to stdout."""
    process.begin()

    def work() -> None:
        job = json.load(sys.stdin)
        folder = Path(job["folder"])
        folder.mkdir()
        settings = WindowSettings(**{**job["settings"], "targets": Targets.parse(job["settings"]["targets"])})
        writer = WindowWriter(settings, ChatTemplate(**job["template"]), load_tokenizer(job["tokenizer"]))
        threads = Threads(Path(job["threads"])).of(job["split"], job["range"])
        try:
            answer: dict[str, Any] = {"counts": vars(writer.write(folder, job["split"], threads, no_log))}
        except BadInput as error:
            answer = {"bad_input": str(error)}
        print(json.dumps(answer))

    process.end(process.run(work))


def _plain(writer: WindowWriter) -> dict[str, Any]:
    """What makes a writer besides its tokenizer, as plain data."""
    template = writer.template
    return {
        "settings": {**vars(writer.settings), "targets": str(writer.settings.targets)},
        "template": {"source": template.source, "special": template.special, "origin": template.origin},
    }


def _start(job: dict[str, Any]) -> Process:
    worker = start_process("litmus.data.chat.parallel", "worker_main", encoding="utf-8")
    assert worker.stdin is not None
    with contextlib.suppress(OSError), worker.stdin as stdin:  # a process that has ended says so by its exit code
        stdin.write(json.dumps(job))
    return worker


def _result(worker: Process) -> WindowCounts:
    assert worker.stdout is not None
    answer, code = worker.stdout.read(), worker.wait()
    if code or not answer:
        ended = f"was ended by {process.signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        raise Failed(f"a process that encodes threads {ended}")
    found = json.loads(answer)
    if "bad_input" in found:
        raise BadInput(found["bad_input"])
    lengths = Counter({int(length): count for length, count in found["counts"].pop("lengths").items()})
    return WindowCounts(**found["counts"], lengths=lengths)


def _end(worker: Process) -> None:
    worker.kill()
    worker.wait()


def _join(folder: Path, split: str, parts: list[Path]) -> None:
    """Append the files of the parts; the starts of windows count from the first part on."""
    for name in PARTS:
        if name != "starts":
            with (folder / f"{split}.{name}.bin").open("wb") as whole:
                for part in parts:
                    with (part / f"{split}.{name}.bin").open("rb") as file:
                        shutil.copyfileobj(file, whole)
    before = 0
    with (folder / f"{split}.starts.bin").open("wb") as whole:
        for part in parts:
            starts = np.fromfile(part / f"{split}.starts.bin", "<i8") + before
            starts[:-1].tofile(whole)
            before = int(starts[-1])
        np.array([before], "<i8").tofile(whole)
    for part in parts:
        shutil.rmtree(part)
