"""What an audit found: one finding per check, as objects, JSON, a terminal table and a section of a web page."""

from __future__ import annotations

from html import escape
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field
from rich.table import Table
from rich.text import Text

from litmus.errors import BadInput, first_fault, nearest

Status = Literal["pass", "warning", "fail", "not applicable"]
STYLES: dict[Status, str] = {"pass": "green", "warning": "yellow", "fail": "bold red", "not applicable": "dim"}


class Finding(BaseModel):
    """What one check found.

    detail: what was looked at or what is wrong, in plain words. measured, tolerance: the figure that decided and its
    limit; None where there is no figure. where: layer and position of a fault. meaning: what the fault means for
    results. mark: the fault in a few words. seconds: how long the check took.
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
    def figure(self) -> str:
        """The measured figure with its limit, e.g. "0.18 (limit 1e-09)"; empty where there is none."""
        if self.measured is None:
            return ""
        limit = "" if self.tolerance is None else f" (limit {self.tolerance:.3g})"
        return f"{self.measured:.3g}{limit}"


class AuditReport(BaseModel):
    """All findings on one subject. `note` says what was changed to audit it (a reduced width, for instance)."""

    model_config = ConfigDict(frozen=True)

    subject: str
    quick: bool
    findings: list[Finding]
    note: str = ""
    seconds: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether no check failed; checks that do not apply count neither way, and a warning is no failure."""
        return not self.failed

    @property
    def failed(self) -> list[Finding]:
        """The findings that are faults, the most important first."""
        return [finding for finding in self.findings if finding.status == "fail"]

    @property
    def no_forward(self) -> str:
        """Why it can be neither trained nor measured: what its forward pass did, and where; empty when that works."""
        found = next((finding for finding in self.failed if finding.name == "forward pass"), None)
        if found is None:
            return ""
        return found.detail + (f" ({found.where})" if found.where else "")

    def __getitem__(self, name: str) -> Finding:
        """The finding of one check by its name; KeyError, naming the nearest, where that check was not made."""
        by_name = {finding.name: finding for finding in self.findings}
        if name not in by_name:
            raise KeyError(f"no check {name!r}; {nearest(name, by_name)}")
        return by_name[name]

    def mark(self) -> str:
        """The most important fault in a few words, such as "fails audit: sees the future"; empty when it passes."""
        return f"fails audit: {self.failed[0].mark}" if self.failed else ""

    def to_json(self) -> str:
        """The report as JSON, `passed` included."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> AuditReport:
        """The report that `to_json` wrote; BadInput when it is none."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BadInput(f"this is no audit report: {first_fault(error, cls)}") from None

    def table(self) -> Table:
        """One row per check for the terminal; a fault also says where it is and what it means."""
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
            figure = Text(finding.figure, style="bold" if finding.status == "fail" else "dim")
            table.add_row(finding.name, status, found, figure)
        return table

    def html_section(self) -> str:
        """The findings as an HTML fragment: what failed in full, what passed folded away; all text escaped."""
        failed = "".join(
            f"<li><b>{escape(finding.name)}</b>: {escape(finding.detail)}"
            + (f" <i>Where:</i> {escape(finding.where)}." if finding.where else "")
            + (f" {escape(finding.meaning)}" if finding.meaning else "")
            + "</li>"
            for finding in self.failed
        )
        rows = "".join(
            f"<tr><td>{escape(finding.name)}</td><td>{finding.status}</td>"
            f"<td>{escape(finding.detail)}</td><td>{escape(finding.figure)}</td></tr>"
            for finding in self.findings
        )
        verdict = f"<p><b>{escape(self.subject)}</b> {'passes its audit' if self.passed else escape(self.mark())}.</p>"
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return (
            f"{verdict}{f'<ul>{failed}</ul>' if failed else ''}{note}<details><summary>All checks</summary>"
            f"<table><tr><th>check</th><th>result</th><th>found</th><th>measured</th></tr>{rows}</table></details>"
        )
