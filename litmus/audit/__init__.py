"""The audit: nothing is scored before it is checked.

`litmus.audit(...)` is both this package and the call that audits: importing `litmus.audit` binds that name to the
package whatever else it was bound to before, so the package itself is made callable.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from litmus.audit.audit import audit, require_forward
from litmus.audit.checks import CHECKS
from litmus.audit.keeping import keep, kept_audit
from litmus.audit.report import AuditReport, Finding

__all__ = ["CHECKS", "AuditReport", "Finding", "audit", "keep", "kept_audit", "require_forward"]


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> AuditReport:
        return audit(*arguments, **options)


_Callable.__call__.__doc__ = audit.__doc__
sys.modules[__name__].__class__ = _Callable
