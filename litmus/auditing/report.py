"""The report of an audit: one finding per check, as objects, JSON, a terminal table and a section of a web page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field
from rich.table import Table
from rich.text import Text

from litmus.errors import BadInput, first_fault, nearest
from litmus.files import read_regular_file, write_atomically
from litmus.model import Recipe
from litmus.training.run.config import AUDIT
from litmus.yaml_json import parse_json

RECIPE_DIGEST = "recipe_sha256"
"""Key of the digest in a saved report."""

Status = Literal["pass", "warning", "fail", "not applicable"]
STYLES: dict[Status, str] = {"pass": "green", "warning": "yellow", "fail": "bold red", "not applicable": "dim"}


class Finding(BaseModel):
    """The result of one check.

    detail: what was tried or what is wrong. measured, tolerance: the value that decided and its limit, or None.
    where: layer and position of a fault. meaning: consequence of the fault for results. mark: the fault in a few words.
    seconds: duration of the check.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    name: str
    status: Status
    detail: str
    measured: float | None = None
    tolerance: float | None = None
    where: str = ""
    meaning: str = ""
    mark: str = ""
    seconds: float = 0.0

    @property
    def measurement(self) -> str:
        """The measured value with its limit, such as "0.18 (limit 1e-09)"; empty without one."""
        if self.measured is None:
            return ""
        limit = "" if self.tolerance is None else f" (limit {self.tolerance:.3g})"
        return f"{self.measured:.3g}{limit}"


class AuditReport(BaseModel):
    """All findings on one target, named `subject`. `note`: how it was changed for the audit, such as its width."""

    model_config = ConfigDict(frozen=True)

    subject: str
    quick: bool
    findings: list[Finding]
    note: str = ""
    seconds: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings and checks that are not applicable do not count as failures."""
        return not self.failed

    @property
    def failed(self) -> list[Finding]:
        """The findings of failed checks, in order of importance."""
        return [finding for finding in self.findings if finding.status == "fail"]

    @property
    def no_forward(self) -> str:
        """How the forward pass fails, and where; empty if it works. Such a model cannot be trained at all."""
        found = next((finding for finding in self.failed if finding.name == "forward pass"), None)
        if found is None:
            return ""
        return found.detail + (f" ({found.where})" if found.where else "")

    def __getitem__(self, name: str) -> Finding:
        """The finding of one check by its name; KeyError with the nearest name if that check did not run."""
        by_name = {finding.name: finding for finding in self.findings}
        if name not in by_name:
            raise KeyError(f"no check {name!r}; {nearest(name, by_name)}")
        return by_name[name]

    def mark(self) -> str:
        """The most important fault in a few words, such as "fails audit: sees the future"; empty if it passes."""
        return f"fails audit: {self.failed[0].mark}" if self.failed else ""

    def to_json(self) -> str:
        """The report as JSON, `passed` included."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> AuditReport:
        """Inverse of `to_json`; BadInput if the text is not a report."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BadInput(f"this is no audit report: {first_fault(error, cls)}") from None

    def save(self, folder: str | Path, recipe: Recipe) -> None:
        """Write the report on `recipe` into `folder`, with a digest of the recipe and its plug-in."""
        content = {RECIPE_DIGEST: recipe_digest(recipe), **json.loads(self.to_json())}
        write_atomically(Path(folder) / AUDIT, json.dumps(content, indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, folder: str | Path, recipe: Recipe | Mapping[str, Any]) -> AuditReport | None:
        """The report saved in `folder`; None if there is none, it is damaged, or it is about another recipe."""
        try:
            text = read_regular_file(Path(folder) / AUDIT)
            content = parse_json(text, AUDIT)
            same = isinstance(content, dict) and content.get(RECIPE_DIGEST) == recipe_digest(recipe)
            return cls.from_json(text) if same else None
        except (OSError, BadInput):
            return None

    def table(self) -> Table:
        """One row per check for the terminal, with location and meaning of a fault."""
        kind = "quick audit" if self.quick else "audit"
        passed = sum(finding.status in ("pass", "warning") for finding in self.findings)
        title = f"{kind} of {self.subject}: {passed} passed, {len(self.failed)} failed, {self.seconds:.0f} s"
        table = Table(title=title, title_justify="left", caption=self.note or None, caption_justify="left", box=None)
        table.add_column("check", no_wrap=True)
        table.add_column("result", no_wrap=True)
        table.add_column("found", ratio=1)
        table.add_column("measured", justify="right", no_wrap=True)
        for finding in self.findings:
            found = Text(finding.detail)
            if finding.where:
                found.append(f"\nwhere: {finding.where}")
            if finding.meaning:
                found.append(f"\n{finding.meaning}", style="italic")
            status = Text(finding.status, style=STYLES[finding.status])
            measurement = Text(finding.measurement, style="bold" if finding.status == "fail" else "dim")
            table.add_row(finding.name, status, found, measurement)
        return table

    def html_section(self) -> str:
        """The findings as an HTML fragment: faults in full, the other checks collapsed; all text escaped."""
        failed = "".join(
            f"<li><b>{escape(finding.name)}</b>: {escape(finding.detail)}"
            + (f" <i>Where:</i> {escape(finding.where)}." if finding.where else "")
            + (f" {escape(finding.meaning)}" if finding.meaning else "")
            + "</li>"
            for finding in self.failed
        )
        rows = "".join(
            f"<tr><td>{escape(finding.name)}</td><td>{finding.status}</td>"
            f"<td>{escape(finding.detail)}</td><td>{escape(finding.measurement)}</td></tr>"
            for finding in self.findings
        )
        verdict = f"<p><b>{escape(self.subject)}</b> {'passes its audit' if self.passed else escape(self.mark())}.</p>"
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return (
            f"{verdict}{f'<ul>{failed}</ul>' if failed else ''}{note}<details><summary>All checks</summary>"
            f"<table><tr><th>check</th><th>result</th><th>found</th><th>measured</th></tr>{rows}</table></details>"
        )


def recipe_digest(recipe: Recipe | Mapping[str, Any]) -> str:
    """The sha256 of a resolved recipe and its plug-in's source, independent of the plug-in's path."""
    plain = dict(recipe.to_dict() if isinstance(recipe, Recipe) else recipe)
    if plain.get("plugin"):
        plain["plugin"] = plain["plugin"]["sha256"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
