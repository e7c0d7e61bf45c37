"""Try commands on what nobody should give them, and hold each to what every command promises.

    python tests/fuzz.py --cases 5000 --jobs 2
    python tests/fuzz.py --try '{"commands": [["recipes", "x.yaml"]], "changes": [...]}'

Each case runs in a folder of its own, made from a small world of runs, models, corpora, recipes and plug-ins. Of every
fault the smallest case that shows it is printed as JSON for --try.
"""

from __future__ import annotations

import argparse
import atexit
import glob
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork keeps one thread only
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import hypothesis  # noqa: E402
from fuzzing import commands, rules, world  # noqa: E402
from fuzzing.case import Case, apply  # noqa: E402
from fuzzing.drawing import Documents  # noqa: E402
from fuzzing.kinds import drawn  # noqa: E402
from fuzzing.known import known  # noqa: E402
from fuzzing.rules import Fault  # noqa: E402
from hypothesis import HealthCheck, Phase, strategies  # noqa: E402

TRIES_TO_SHRINK = 25


class Laboratory:
    """A world made once; every case runs in a copy of it."""

    def __init__(self, comparison: bool) -> None:
        commands.prepared_to_fork()
        quick = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="litmus-fuzz-", dir=quick))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.world, self.place = self.folder / "world", self.folder / "case"
        # Made where cases run, so that paths written into files stay true.
        world.make(self.place, comparison)
        shutil.copytree(self.place, self.world, symlinks=True)
        self.fresh = True
        self.documents = Documents(self.world / "a/b/work")

    def tried(self, case: Case) -> list[Fault]:
        """What is wrong with how the commands of a case end."""
        return [fault for command, ended, found in self.watched(case) for fault in found]

    def watched(self, case: Case) -> list[tuple[tuple[str, ...], commands.Ended, list[Fault]]]:
        """Each command of a case, how it ended and what is wrong with that."""
        if not self.fresh:
            shutil.rmtree(self.place, ignore_errors=True)
            shutil.copytree(self.world, self.place, symlinks=True)
        self.fresh = False
        work = self.place / "a/b/work"
        for change in case.changes:
            if change.path.startswith("CACHE/"):
                found = sorted(glob.glob(change.path.replace("CACHE", str(self.place / "cache"), 1)))
                if found:
                    path = found[int(change.key[0]) % len(found)]
                    apply(replace(change, path=path), work)
            else:
                apply(change, work)
        results = []
        first = before = rules.files(self.place)
        for command in case.commands:
            ended = commands.run(
                list(command),
                work,
                self.place / "logs",
                world.environment(self.place),
                case.streams,
                case.endless,
            )
            after = rules.files(self.place)
            results.append((command, ended, list(rules.faults(case, command, ended, first, before, after))))
            before = after
        self.fresh = before == first and not case.changes
        return results

    def shrunk(self, case: Case, fault: Fault) -> Case:
        """The case without what the fault does not need."""
        tries = 0

        def shows(smaller: Case) -> bool:
            return any((found.kind, found.where) == (fault.kind, fault.where) for found in self.tried(smaller))

        smaller = True
        while smaller:
            smaller = False
            for candidate in _smaller(case):
                tries += 1
                if tries > TRIES_TO_SHRINK:
                    return case
                if shows(candidate):
                    case, smaller = candidate, True
                    break
        return case


def _smaller(case: Case) -> list[Case]:
    """Cases with one thing fewer."""
    found = []
    if case.streams != commands.Streams():
        found.append(replace(case, streams=commands.Streams()))
        found += [replace(case, streams=replace(case.streams, **{name: default})) for name, default in
                  asdict(commands.Streams()).items() if getattr(case.streams, name) != default]  # fmt: skip
    if len(case.commands) > 1:
        found += [replace(case, commands=(command,)) for command in case.commands]
    for number in range(len(case.changes)):
        found.append(replace(case, changes=case.changes[:number] + case.changes[number + 1 :]))
    for number, command in enumerate(case.commands):
        for place in range(len(command) - 1, 0, -1):
            if command[place].startswith("--") and ("=" in command[place] or place == len(command) - 1):
                less = command[:place] + command[place + 1 :]
                found.append(replace(case, commands=(*case.commands[:number], less, *case.commands[number + 1 :])))
    for number, change in enumerate(case.changes):
        if change.what == "json" and isinstance(change.value, dict):
            for key in change.value:
                less = {name: value for name, value in change.value.items() if name != key}
                changes = (*case.changes[:number], replace(change, value=less), *case.changes[number + 1 :])
                found.append(replace(case, changes=changes))
    return found


def search(count: int, seed: int, tried_first: list[Case], comparison: bool, verbose: bool) -> dict[str, Any]:
    """Try some cases, then so many drawn ones; the faults by kind and place, each with a shrunk case."""
    laboratory = Laboratory(comparison)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    total, ends = Counter[str](), Counter[int]()
    slow: list[tuple[float, str]] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max(1, count),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategies.randoms(use_true_random=True))
    def each(draw: random.Random) -> None:
        hold(drawn(draw, laboratory.documents))

    def hold(case: Case) -> None:
        total["cases"] += 1
        for _, ended, faults in laboratory.watched(case):
            ends[ended.code] += 1
            slow.append((ended.seconds, case.to_json()))
            for fault in faults:
                total[fault.kind] += 1
                entry = found.setdefault((fault.kind, fault.where), {"times": 0, "what": fault.what, "case": case})
                entry["times"] += 1
                if verbose and entry["times"] == 1:
                    print(f"{fault.kind}: {fault.where}\n    {fault.what}\n    {case.to_json()[:600]}", flush=True)
        if verbose and total["cases"] % 100 == 0:
            print(f"[{seed}] {dict(total)} {time.strftime('%H:%M:%S')}", flush=True)

    for case in tried_first:
        hold(case)
    if count:
        each()
    for (kind, where), entry in found.items():
        if kind not in ("hang", "net"):
            entry["case"] = laboratory.shrunk(entry["case"], Fault(kind, where, ""))
    faults = [
        {"kind": kind, "where": where, **entry, "case": entry["case"].to_json()}
        for (kind, where), entry in found.items()
    ]
    slow = sorted(slow, reverse=True)[:10]
    return {"total": dict(total), "ends": dict(ends), "faults": faults, "slow": slow}


def report(results: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """One summary of what the searches found."""
    total, ends = Counter[str](), Counter[int]()
    faults: dict[tuple[str, str], dict[str, Any]] = {}
    for result in results:
        total.update(result["total"])
        ends.update(result["ends"])
        for fault in result["faults"]:
            known = faults.setdefault((fault["kind"], fault["where"]), {**fault, "times": 0})
            known["times"] += fault["times"]
            known["case"] = min(known["case"], fault["case"], key=len)
    listed = sorted(faults.values(), key=lambda fault: (rules.KINDS.index(fault["kind"]), -fault["times"]))
    for fault in listed:
        print(
            f"\n{fault['kind']} ({fault['times']} times): {fault['where']}\n  {' '.join(fault['what'].split())[-400:]}"
        )
        print(f"  python tests/fuzz.py --try {_quoted(fault['case'])}")
    print(f"\nexit codes: {', '.join(f'{code}: {count}' for code, count in sorted(ends.items()))}")
    counts = ", ".join(f"{total.get(kind, 0)} {kind}" for kind in rules.KINDS)
    print(f"{total['cases']} cases in {seconds:.0f} s: {counts}")
    slow = sorted((entry for result in results for entry in result["slow"]), reverse=True)[:5]
    return {"total": dict(total), "faults": listed, "slow": slow}


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500, help="how many; up to half are such as once went wrong")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes that search, each with a seed of its own")
    parser.add_argument("--json", type=Path, help="write all that was found to this file")
    parser.add_argument("--try", dest="case", help="try one case, as printed, and show all that it says")
    parser.add_argument("--verbose", action="store_true", help="print each fault as it is found")
    given = parser.parse_args()
    if given.case:
        laboratory = Laboratory(comparison="runs/pair" in given.case or "compare" in given.case)
        broken = False
        for command, ended, faults in laboratory.watched(Case.from_json(given.case)):
            print(f"$ litmus {' '.join(command)}\n{ended.out}{ended.err}exit code {ended.code}, {ended.seconds:.1f} s")
            for fault in faults:
                broken = True
                print(f"FAULT {fault.kind}: {fault.where}: {fault.what[-300:]}")
        return int(broken)
    began = time.monotonic()
    first = list(known(slow=given.cases >= 1000))
    if 2 * len(first) > given.cases:
        first = random.Random(given.seed).sample(first, given.cases // 2)
    share = -(-(given.cases - len(first)) // given.jobs)
    work = [
        (share, given.seed + number, first[number :: given.jobs], given.cases >= 1000, given.verbose)
        for number in range(given.jobs)
    ]
    if given.jobs == 1:
        results = [search(*work[0])]
    else:
        with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
            results = list(pool.map(search, *zip(*work, strict=True)))
    whole = report(results, time.monotonic() - began)
    if given.json:
        given.json.write_text(json.dumps(whole, indent=1))
    return int(any(fault["kind"] != "net" for fault in whole["faults"]))


if __name__ == "__main__":
    sys.exit(main())
