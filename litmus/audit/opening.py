"""From what a user names to the subject of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litmus.audit.target import AuditTarget
from litmus.errors import BadInput
from litmus.model import Decoder, Recipe, Source, resolve
from litmus.model.plugins import plugin_code, run_plugin
from litmus.model.recipe import validated
from litmus.training.loading import load


@dataclass(frozen=True)
class Request:
    """What is to be audited and how; `limit` is in seconds per check, None for what is fair to the model."""

    source: Source | Decoder
    checks: tuple[str, ...]
    quick: bool = False
    size: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    limit: float | None = None
    trust_plugin: bool = False

    @property
    def name(self) -> str:
        """What to call the subject while it is not open."""
        if isinstance(self.source, Recipe):
            return self.source.name
        if isinstance(self.source, Mapping):
            return str(self.source.get("name", "unnamed"))
        if isinstance(self.source, (str, Path)):
            return Path(self.source).stem
        return self.source.recipe.name

    @property
    def runs_foreign_code(self) -> bool:
        """Whether opening it runs code from a file, which may do anything, rather than only what is here already."""
        if isinstance(self.source, Recipe):
            return self.source.plugin is not None
        if isinstance(self.source, (str, Path)):
            return Path(self.source).suffix in (".py", ".yaml", ".yml") or Path(self.source).is_dir()
        return False

    def to_plain(self) -> dict[str, Any]:
        """The request as plain data for another process, with the code of a recipe's plug-in; no live model."""
        plain = {**vars(self), "source": str(self.source), "overrides": dict(self.overrides)}
        if isinstance(self.source, Recipe):
            plugin = self.source.plugin
            code = None if plugin is None else plugin_code(plugin).decode("latin-1")
            plain |= {"source": self.source.to_dict(), "code": code}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Request:
        """The request that `to_plain` made plain; runs the plug-in's code that came with it."""
        source, code = plain["source"], plain.get("code")
        if isinstance(source, dict):
            if code is not None:
                run_plugin(code.encode("latin-1"), Path(source["plugin"]["path"]))
            source = validated(source)
        own = {key: value for key, value in plain.items() if key != "code"}
        return cls(**{**own, "source": source, "checks": tuple(plain["checks"])})


def opened(request: Request) -> AuditTarget:
    """Build or load what is asked for; BadInput when there is nothing that can be audited."""
    source, quick = request.source, request.quick
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        folder = Path(source)
        if request.size or request.overrides:
            raise BadInput(f"{folder} holds a model that is already built; audit its recipe to change size or keys")
        return AuditTarget(load(folder, trust_plugin=request.trust_plugin), quick=quick)
    if isinstance(source, (str, Path, Mapping, Recipe)):
        trusted = request.trust_plugin
        recipe = resolve(source, size=request.size, overrides=request.overrides, trust_plugin=trusted)
        return AuditTarget(recipe, quick=quick)
    return AuditTarget(source, quick=quick)
