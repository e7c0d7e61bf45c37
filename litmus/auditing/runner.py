"""Open the target of a request and run its checks, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from litmus.auditing.adapters import target_of
from litmus.auditing.check import Evidence, crash_evidence, run_check, to_finding
from litmus.auditing.checks import CHECKS, FORWARD
from litmus.auditing.report import Finding
from litmus.auditing.sources import is_named_model, open_named_model
from litmus.auditing.target import AuditTarget
from litmus.errors import BadInput, Failed
from litmus.limits import TimeLimitExceeded, timeout
from litmus.model import Decoder, Recipe, resolve
from litmus.model.plugins import plugin_code, run_plugin
from litmus.model.recipe import validated
from litmus.training.run.loading import load

LIMIT_SECONDS = (60.0, 240.0)
"""Time limit of one check (quick, full), unless the model is so slow that `MIN_FORWARD_PASSES` take longer."""

MIN_FORWARD_PASSES = 1500
"""The time limit of a check is at least the time of this many forward passes of 32 tokens."""


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
