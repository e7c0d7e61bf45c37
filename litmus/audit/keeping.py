"""A run carries its audit: made before the training, kept in the run folder, shown with every score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litmus.audit.report import AuditReport
from litmus.errors import BadInput
from litmus.files import read_regular_file, write_atomically
from litmus.model import Recipe
from litmus.training.run import AUDIT
from litmus.yaml_json import parse_json

RECIPE_DIGEST = "recipe_sha256"


def keep(folder: str | Path, report: AuditReport, recipe: Recipe) -> None:
    """Write the audit of `recipe` into `folder`, with the digest of what was audited."""
    content = {RECIPE_DIGEST: recipe_digest(recipe), **json.loads(report.to_json())}
    write_atomically(Path(folder) / AUDIT, json.dumps(content, indent=1, ensure_ascii=False))


def kept_audit(folder: str | Path, recipe: Recipe | Mapping[str, Any]) -> AuditReport | None:
    """The audit of `recipe` kept in `folder`; None where there is none, it is damaged, or it is of another recipe."""
    try:
        text = read_regular_file(Path(folder) / AUDIT)
        content = parse_json(text, AUDIT)
        same = isinstance(content, dict) and content.get(RECIPE_DIGEST) == recipe_digest(recipe)
        return AuditReport.from_json(text) if same else None
    except (OSError, BadInput):
        return None


def recipe_digest(recipe: Recipe | Mapping[str, Any]) -> str:
    """The sha256 of a resolved recipe and of its plug-in's source, wherever the plug-in lies."""
    plain = dict(recipe.to_dict() if isinstance(recipe, Recipe) else recipe)
    if plain.get("plugin"):
        plain["plugin"] = plain["plugin"]["sha256"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
