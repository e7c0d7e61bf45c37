"""What every command promises, whatever it is given: how it ends, what it says, and which files it leaves alone."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fuzzing.case import Case
from fuzzing.commands import Ended

OWN = ("home", "tmp", "cache", "logs")
"""Folders beside the work folder where a command may write without being told to."""
KEPT_IN_A_RUN = re.compile(r"a/b/work/runs/[^/]+/(run\.yaml|recipe\.yaml|tokenizer/.*|checkpoints/\d+/.*)$")
FOREIGN = re.compile(r"notes\.txt$|\.DS_Store$|\.nfs0001$|\.Trash/file$|thesis\.tex$")
NAMES_A_TARGET = ("--folder", "--out", "--json", "--figure", "--name", "--save")
MARKS_OF_A_CRASH = re.compile(
    r"Traceback \(most recent call last\)|panicked at|Exception ignored|Fatal Python error|Segmentation|core dumped"
)


@dataclass(frozen=True)
class Fault:
    """A broken promise: `kind` is one of KINDS, `where` groups what has the same cause, `what` tells this one."""

    kind: str
    where: str
    what: str


KINDS = ("traceback", "hang", "lost", "stray", "crash", "exit code", "no sentence", "sentence", "orphan", "net")
"""What can be wrong. A net is an exception that only the last handler made a sentence of: reported, and no failure."""

Files = Mapping[str, str]


def files(base: Path) -> dict[str, str]:
    """Every file and link below `base` outside OWN, with a digest of what it holds or where it leads."""
    found = {}
    for folder, folders, names in os.walk(base):
        if Path(folder) == base:
            folders[:] = [name for name in folders if name not in OWN]
        for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                digest = f"-> {os.readlink(path)}"
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "blake2b").hexdigest()
            else:
                digest = "special"
            found[os.path.relpath(path, base)] = digest
    return found


def faults(
    case: Case, command: tuple[str, ...], ended: Ended, first: Files, before: Files, after: Files
) -> Iterator[Fault]:
    """Everything that is wrong with how one command of a case ended; the files as they first were, before and after."""
    yield from _ending(case, command, ended)
    if ended.code in (1, 2) and case.streams.stderr == "file":
        yield from _saying(command[0] if command else "", ended)
    yield from _files(case, command or ("",), first, before, after)


def _ending(case: Case, command: tuple[str, ...], ended: Ended) -> Iterator[Fault]:
    name = " ".join(command[:1])
    text = ended.err + ended.out
    if ended.hung:
        yield Fault("hang", name, f"no end after {ended.seconds:.0f} s")
        return
    if found := MARKS_OF_A_CRASH.search(text):
        yield Fault("traceback", _innermost(ended.err), text[found.start() :][-1500:])
    allowed = {0, 1, 2} | ({130} if ended.endless else set()) | ({141} if case.streams.stdout == "unread" else set())
    for deed, own in (("dies", 9), ("interrupts", 130)):  # a plug-in that itself ends the process, or says Ctrl-C
        allowed |= {own} if any(word.endswith(f"-{deed}.py") for word in command) else set()
    if ended.code < 0:
        yield Fault("crash", f"{name}: signal {-ended.code}", ended.err[-500:])
    elif ended.code not in allowed:
        yield Fault("exit code", f"{name}: {ended.code}", ended.err[-500:])
    if ended.orphans:
        yield Fault("orphan", name, "a process of the command still lives")


def _saying(name: str, ended: Ended) -> Iterator[Fault]:
    lines = [line for line in ended.err.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if MARKS_OF_A_CRASH.search(ended.err):
        return
    if not last.startswith("litmus: "):
        if ended.code == 2 or not ended.out.strip():
            yield Fault("no sentence", last[:60], ended.err[-500:])
        return
    sentence = last.removeprefix("litmus: ")
    if "internal error" in sentence:
        yield Fault(
            "traceback",
            re.sub(r"^.*fault of Litmus: (\w+).*\((litmus/\S+), line (\d+)\).*$", r"\1 in \2:\3", sentence),
            sentence,
        )
    elif "--debug shows where" in sentence:
        yield Fault("net", f"{name}: {re.sub(r'[0-9]+', 'N', sentence)[:70]}", sentence[:500])
    if len(sentence) > 2000:
        yield Fault("sentence", f"long: {sentence[:50]}", f"{len(sentence)} characters")
    if any(ord(character) < 32 or ord(character) == 127 for character in sentence):
        yield Fault("sentence", f"control characters: {sentence[:40]!r}", repr(sentence[:500]))
    if not sentence.strip() or re.fullmatch(r"\W*", sentence):
        yield Fault("sentence", "empty", sentence)
    if re.match(r"[A-Z]\w*(Error|Exception)\b", sentence):
        yield Fault("sentence", f"an exception's name: {sentence[:60]}", sentence[:500])


def _innermost(err: str) -> str:
    """The exception and the innermost function of litmus in a traceback."""
    found = re.findall(r'File "[^"]*?/(litmus/[^"]+|[^"/]+)", line \d+, in (\S+)', err)
    own = [f"{path}:{name}" for path, name in found if path.startswith("litmus/") and "errors.py" not in path]
    last = next(
        (
            line
            for line in reversed(err.splitlines())
            if re.match(r"[A-Za-z_.]+(Error|Exception|Interrupt|\w*)\b", line)
        ),
        "",
    )
    return f"{last.split(':')[0][:40]} in {own[-1] if own else '?'}"


def _files(case: Case, command: tuple[str, ...], first: Files, before: Files, after: Files) -> Iterator[Fault]:
    targets = [os.path.normpath(f"a/b/work/{name}") for name in _targets(case, command)]
    linked = [(path, before[path][3:]) for path in targets if before.get(path, "").startswith("-> ")]
    targets += [os.path.normpath(os.path.join(os.path.dirname(path), place)) for path, place in linked]
    damaged = [f"a/b/work/{change.path}" for change in case.changes]
    for path, digest in before.items():
        now = after.get(path)
        if now == digest or _is_file_named(path, command, targets):
            continue
        if not FOREIGN.search(path) and _may_change(path, command, targets, damaged, made=path not in first):
            continue
        yield Fault("lost", f"{command[0]}: {_class_of(path)}", f"{path} was {'changed' if now else 'removed'}")
    for path in after.keys() - before.keys():
        if path.startswith("a/b/work/runs/") or any(_within(path, target) for target in targets):
            continue
        yield Fault("stray", f"{command[0]}: {_class_of(path)}", f"{path} is new")


def _is_file_named(path: str, command: tuple[str, ...], targets: list[str]) -> bool:
    """Whether the command was told to write just this file."""
    return path in targets and any(word.startswith(("--json", "--figure")) for word in command)


def _may_change(path: str, command: tuple[str, ...], targets: list[str], damaged: list[str], made: bool) -> bool:
    """Whether the command may replace this file, one of ours or one that it was told to write."""
    if path.startswith("a/b/work/runs/"):
        checkpoint = re.match(r"(.*/checkpoints/\d+)/", path)
        place = checkpoint[1] if checkpoint else path
        if any(path.startswith(other) or other.startswith(place) for other in damaged):
            return True
        if command[:2] == ("runs", "remove") and re.match(r"a/b/work/runs/([^/]+)", path)[1] in map(_name, command[2:]):
            return True
        extended = "6 steps" in command and path.endswith(("run.yaml", "recipe.yaml"))
        return extended or not KEPT_IN_A_RUN.match(path)
    if command[0] == "export" and (made or re.match(r"a/b/work/(exported|hf-\w+)/", path)):
        return any(_within(path, target) for target in targets)
    return False


def _name(word: str) -> str:
    return os.path.basename(os.path.normpath(word))


def _targets(case: Case, command: tuple[str, ...]) -> Iterator[str]:
    words = list(command)
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        value = value if equals else words[number + 1] if number + 1 < len(words) else ""
        if option in NAMES_A_TARGET:
            yield os.path.normpath(value) if value else "."
            if option == "--name":
                yield os.path.normpath(f"runs/{value}")
        elif option == "--runs":
            yield os.path.normpath(value) if value else "."
        elif command[0] == "export" and word.startswith(("runs/", "linked-run", "exported", "saved", "hf-")):
            yield os.path.normpath(word) + "-hf"
            yield os.path.normpath(os.path.join(os.path.dirname(word), "tiny-hf"))
    for line in (case.streams.stdin or "").splitlines():
        if line.startswith("/save "):
            yield os.path.normpath(line.removeprefix("/save ").strip())


def _within(path: str, target: str) -> bool:
    """Whether a path is a target, below it, or the lock beside it."""
    if target == "a/b/work":
        return False
    folder, name = os.path.split(target)
    return path == target or path.startswith(target + "/") or path == f"{folder}/.{name}.lock"


def _class_of(path: str) -> str:
    return re.sub(r"\d+", "N", re.sub(r"\.[a-z0-9_]{8}(?=/|$)", ".RANDOM", path.removeprefix("a/b/work/")))
