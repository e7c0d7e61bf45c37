"""A run carries its audit: made before the training, kept in the run folder, shown beside every score."""

from __future__ import annotations

from pathlib import Path

from litmus.audit.report import AuditReport
from litmus.files import write_atomically

AUDIT = "audit.json"


def keep(folder: Path, report: AuditReport) -> None:
    """Write the audit of a run into its folder."""
    write_atomically(folder / AUDIT, report.to_json())


def kept_audit(folder: Path) -> AuditReport | None:
    """The audit kept in a run folder, None where there is none."""
    path = folder / AUDIT
    return AuditReport.from_json(path.read_bytes()) if path.is_file() else None
