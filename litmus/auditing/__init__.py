"""The audit: checks that a model is what it claims to be, before anything is scored."""

from litmus.auditing.audit import audit, audit_each, require_forward
from litmus.auditing.checks import CHECKS
from litmus.auditing.report import AuditReport, Finding

__all__ = ["CHECKS", "AuditReport", "Finding", "audit", "audit_each", "require_forward"]
