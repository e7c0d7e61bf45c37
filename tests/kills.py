"""End commands at random moments, repeat each, and compare what it leaves with an undisturbed run, bit by bit.

    python tests/kills.py --kills 100 --interrupts 50

A kill is SIGKILL; an interrupt is SIGINT, SIGTERM or SIGHUP. After each, the same command is repeated until it is done.
Then its result must equal the undisturbed one but for what depends on the clock, nothing else may have changed, no
process may live on, and no temporary folder may be left.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork keeps one thread only
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from fuzzing import commands, rules, world  # noqa: E402

EXIT_CODES = {signal.SIGKILL: {-9}, signal.SIGINT: {130}, signal.SIGTERM: {143}, signal.SIGHUP: {143}}
OF_THE_CLOCK = ("seconds", "tokens_per_second", "peak_memory_bytes", "started", "date", "timing", "command", "hardware")
ORPHANS_MAY_LIVE = 20.0
MARK = "LITMUS_KILLS"


@dataclass(frozen=True)
class Work:
    """A command and where its product lies; `waits_for` is a file after whose appearance its long part begins."""

    command: tuple[str, ...]
    product: str
    waits_for: str = ""
    share: int = 1


TRAIN = (*world.TRAIN[:2], *world.SHORT, "--threads", "1", "--budget", "60 steps", "--option", "checkpoint_every=7")
WORKS = {
    "train": Work((*TRAIN, "--folder", "killed"), "killed", "killed/metrics.jsonl", 8),
    "prepare": Work(("data", "prepare", "corpus.txt", "--tokenizer", "bpe-700"), "CACHE/tokens", share=3),
    "export": Work(("export", "runs/tiny", "--out", "killed"), "killed", share=3),
    "export over": Work(("export", "runs/tiny", "--out", "exported"), "exported", share=3),
    "import": Work(("import", "hf-llama", "--name", "killed"), "runs/killed", share=2),
    "compare": Work((*world.COMPARE, "--name", "killed"), "runs/killed", "runs/killed/trials", 2),
}


class Killing:
    """A world, the undisturbed result of each command in it, and commands ended at random moments."""

    def __init__(self, names: list[str], seed: int) -> None:
        commands.prepared_to_fork()
        quick = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="litmus-kills-", dir=quick))
        self.world, self.place = self.folder / "world", self.folder / "case"
        self.work = self.place / "a/b/work"
        self.draw = random.Random(seed)
        self.undisturbed: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        world.make(self.place, comparison=False)
        shutil.copytree(self.place, self.world, symlinks=True)
        for name in names:
            self._measure(name)

    def _measure(self, name: str) -> None:
        """Run a command undisturbed: what it leaves, how long it takes, and when its long part begins."""
        self._fresh()
        began = time.monotonic()
        child = self._start(name)
        reached = self._reaches(name, child)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0, f"{name} undisturbed ended with {code}: {self._err()}"
        self.seconds[name] = (reached - began, time.monotonic() - reached)
        self.undisturbed[name] = self._result(name)

    def tried(self, name: str, number: int) -> list[str]:
        """What goes wrong when the command is ended by the signal `number` at a random moment, then repeated."""
        self._fresh()
        before = rules.files(self.place)
        code = self._ended_at_random(name, number)
        wrong = []
        if code not in EXIT_CODES[signal.Signals(number)] | {0}:
            wrong.append(f"exit code {code}: {self._err()[-300:]}")
        if code >= 0 and rules.MARKS_OF_A_CRASH.search(self._err()):
            wrong.append(f"a traceback: {self._err()[-600:]}")
        wrong += self._orphans()
        child = self._start(name)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done_before = name == "import" and code == 2 and "there already" in self._err()
        if code != 0 and not done_before:
            return [*wrong, f"repeated, it ended with {code}: {self._err()[-600:]}"]
        wrong += _differences(self.undisturbed[name], self._result(name))
        after = rules.files(self.place)
        product = f"a/b/work/{WORKS[name].product}/"
        wrong += [
            f"{path} changed" for path in before if after.get(path) != before[path] and not path.startswith(product)
        ]
        wrong += [f"{path} is left over" for path in _left_over(self.place, WORKS[name].product)]
        return wrong

    def _fresh(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.world, self.place, symlinks=True)

    def _start(self, name: str) -> int:
        own = {**world.environment(self.place), MARK: str(self.place)}
        return commands.started(list(WORKS[name].command), self.work, self.place / "logs", own)

    def _reaches(self, name: str, child: int) -> float:
        """Wait until the long part of the command begins (or it ends); the time then."""
        wanted = WORKS[name].waits_for
        while wanted and not (self.work / wanted).exists():
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            time.sleep(0.002)
        return time.monotonic()

    def _ended_at_random(self, name: str, number: int) -> int:
        first, second = self.seconds[name]
        child = self._start(name)
        if WORKS[name].waits_for and self.draw.random() < 0.8:
            self._reaches(name, child)
            moment = self.draw.random() * second
        else:
            moment = self.draw.random() * (first + second)
        until = time.monotonic() + moment
        while time.monotonic() < until:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            time.sleep(min(0.002, max(0.0, until - time.monotonic())))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _err(self) -> str:
        return (self.place / "logs/err").read_text(errors="replace")

    def _orphans(self) -> list[str]:
        """Processes of the command that go on working after it ended."""
        until = time.monotonic() + ORPHANS_MAY_LIVE
        while left := _marked(str(self.place)):
            if time.monotonic() > until:
                for process in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                return [f"{len(left)} processes live on after {ORPHANS_MAY_LIVE:.0f} s"]
            time.sleep(0.05)
        return []

    def _result(self, name: str) -> dict[str, Any]:
        product = WORKS[name].product
        root = (
            self.place / "cache" / product.removeprefix("CACHE/")
            if product.startswith("CACHE/")
            else self.work / product
        )
        return {
            str(path.relative_to(root)): _content(path) for path in sorted(root.rglob("*"))
            if path.is_file() and not path.name.endswith(".lock") and path.suffix != ".html"
        }  # fmt: skip


def _marked(mark: str) -> list[int]:
    """The living processes whose environment carries the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes() and (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return [process for process in found if process != os.getpid()]


def _content(path: Path) -> Any:
    """A file's digest, or what a JSON, JSON-lines or YAML file says besides what depends on the clock."""
    import yaml

    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".yaml":
        return _timeless(yaml.safe_load(path.read_text()))
    return hashlib.blake2b(path.read_bytes()).hexdigest()


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        kept = {key: value for key, value in content.items() if not any(word in str(key) for word in OF_THE_CLOCK)}
        if "sha256" in kept and "bytes" in kept:
            return "a checksum, of a file that is compared itself"
        return {key: _timeless(value) for key, value in kept.items()}
    if isinstance(content, list):
        return [_timeless(value) for value in content]
    if isinstance(content, str) and re.fullmatch(r"[0-9a-f]{64}", content):
        return "a digest"
    return content


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    wrong = [f"{path} is missing" for path in expected.keys() - found.keys()]
    wrong += [f"{path} is extra" for path in found.keys() - expected.keys()]
    for path in expected.keys() & found.keys():
        if expected[path] != found[path]:
            wrong.append(f"{path} differs: {_first_difference(expected[path], found[path])}")
    return wrong


def _first_difference(one: Any, other: Any, place: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            if one.get(key) != other.get(key):
                return _first_difference(one.get(key), other.get(key), f"{place}.{key}")
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{place} has {len(other)} entries, not {len(one)}"
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            if first != second:
                return _first_difference(first, second, f"{place}[{number}]")
    return f"{place}: {str(other)[:80]}, not {str(one)[:80]}"


def _left_over(base: Path, product: str) -> list[str]:
    """Hidden temporary files and folders that the repeated command should have removed."""
    ours = re.compile(r"^\..+\.[A-Za-z0-9_]{6,12}$|\.litmus-tmp$")
    found = [str(path.relative_to(base)) for path in base.rglob(".*") if ours.search(path.name)]
    return [path for path in found if not path.endswith((".nfs0001", ".lock", ".Trash", ".DS_Store", ".gitignore"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--interrupts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=WORKS, action="append", help="this command only; may be repeated")
    given = parser.parse_args()
    names = given.only or list(WORKS)
    began = time.monotonic()
    killing = Killing(names, given.seed)
    counts, faults = Counter[str](), Counter[str]()
    plan = [signal.SIGKILL] * given.kills
    plan += [(signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[n % 4] for n in range(given.interrupts)]
    for done, number in enumerate(plan):
        if done and done % 25 == 0:
            print(f"{done} signals, {sum(faults.values())} faults, {time.monotonic() - began:.0f} s", flush=True)
        name = killing.draw.choices(names, [WORKS[name].share for name in names])[0]
        counts[f"{signal.Signals(number).name} {name}"] += 1
        for fault in killing.tried(name, number):
            faults[name] += 1
            print(f"{signal.Signals(number).name} in {name}: {fault}", flush=True)
    for kind, count in sorted(counts.items()):
        print(f"{kind}: {count}")
    print(f"{sum(counts.values())} signals in {time.monotonic() - began:.0f} s: {sum(faults.values())} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
