"""Write docs/results/transformers_audit.md from the rows of audit_transformers.py and confirm_transformers.py.

python bench/transformers_page.py
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from math import inf
from typing import Any

import torch
import transformers
from audit_transformers import AUDIT, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, ROWS, rows_of
from confirm_transformers import CONFIRMED, LIMIT

KINDS: list[tuple[str, str, str]] = [
    ("causality", r"replacing the tokens|gradient", "sees later tokens"),
    ("causality", r"in training mode", "its loss is not that of the next tokens"),
    ("loss", r"is no mean", "its loss is not that of the next tokens"),
    ("prefix consistency", r"change when", "sees later tokens"),
    ("cache parity", r"with a StaticCache", "decoding with a StaticCache differs"),
    ("cache parity", r"^decoding token by token", "decoding token by token differs"),
    ("cache parity", r"^(decoding in chunks|(a )?prefill [io])", "decoding in chunks differs"),
    ("cache parity", r"rows were repeated", "decoding after rows were reordered differs"),
    ("cache parity", r"greedy generation for one prompt", "`generate` differs from forward"),
    ("cache parity", r"padding on the left|in one batch", "left padding changes the logits"),
    ("position parity", r"on the left", "left padding changes the logits"),
]  # fmt: skip
"""(check, what its detail says, the claim of bench/confirm_transformers.py that is the same)."""

SCRIPTS = {
    "sees later tokens": "sees_future",
    "its loss is not that of the next tokens": "unshifted_loss",
    "decoding token by token differs": "cache_beyond_window",
    "decoding in chunks differs": "second_chunk",
    "decoding after rows were reordered differs": "reordered_rows",
    "left padding changes the logits": "left_padding",
    "`generate` differs from forward": "generate_differs",
}
"""Ten lines in bench/transformers_findings that show a claim for one class."""


def unconfirmed(findings: dict[str, Any], confirmed: set[str]) -> list[str]:
    """The checks that failed for no reason that is confirmed."""
    return [
        name
        for name, finding in findings.items()
        if finding["status"] == "fail"
        and not any(
            check == name and claim in confirmed and re.search(said, finding["detail"]) for check, said, claim in KINDS
        )
    ]


def figures_of(findings: dict[str, Any]) -> dict[str, float]:
    """The figure of the first claim that each check of an audit found; inf where the check has no figure."""
    figures: dict[str, float] = {}
    for name, finding in findings.items():
        claims = (claim for check, said, claim in KINDS if check == name and re.search(said, finding.get("detail", "")))
        if claim := next(claims, ""):
            figures.setdefault(claim, finding.get("measured", inf))
    return figures


def page(audited: list[dict[str, Any]], called: list[dict[str, Any]], limit: float) -> str:
    """The page of the rows of the audit and of those of bench/confirm_transformers.py."""
    audits = {result["kind"]: result["findings"] for result in audited if "tolerance" in result}  # built, and ended
    parts: dict[str, list[str]] = {name: [] for name in ("faulty", "unclear", "sound", "agree", "not_built")}
    kinds = {result["kind"] for result in called}
    uncalled = [result for result in audited if result["kind"] in audits and result["kind"] not in kinds]
    for result in sorted([*called, *uncalled], key=lambda result: (result["class"].lower(), result["kind"])):
        name, findings = f"`{result['class']}`", audits.get(result["kind"])
        if "not_built" in result:
            parts["not_built"].append(f"| {name} | {result['not_built'].replace('|', ' ')[:100]} |")
            continue
        figures = result["figures"] if "figures" in result else figures_of(findings or {})
        found = {claim: figure for claim, figure in figures.items() if isinstance(figure, float) and figure > limit}
        raised = [
            f"{claim.removesuffix(' differs')} raises" for claim, error in figures.items() if isinstance(error, str)
        ]
        others = [*unconfirmed(findings or {}, set(found)), *raised]
        if found:
            shown = "; ".join(claim + (f" ({figure:.2g})" if figure < inf else "") for claim, figure in found.items())
            how = " and ".join([*(["audited"] if findings else []), *(["called"] if "figures" in result else [])])
            parts["faulty"].append(f"| {name} | {shown} | {how} | {', '.join(others)} |")
        elif others:
            parts["unclear"].append(f"{name} ({', '.join(others)})")
        else:
            parts["sound" if findings else "agree"].append(name)
    return PAGE_TEXT.format(
        transformers=transformers.__version__,
        torch=torch.__version__.split("+")[0],
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        known=len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        built=len(called) + len(uncalled) - len(parts["not_built"]),
        called=len(called) - len(parts["not_built"]),
        uncalled=len(uncalled),
        audited=len(audits),
        coarse=sum(result["tolerance"] > 1e-9 for result in audited if result["kind"] in audits),
        earlier=sum(result["audit"] < AUDIT for result in audited if result["kind"] in audits),
        limit=limit,
        scripts="\n".join(f"- {claim}: `python bench/transformers_findings/{it}.py`" for claim, it in SCRIPTS.items()),
        **{f"{name}_count": len(lines) for name, lines in parts.items()},
        **{name: "\n".join(parts[name]) for name in ("faulty", "not_built")},
        **{name: ", ".join(parts[name]) or "None." for name in ("unclear", "sound", "agree")},
    )


PAGE_TEXT = """# The causal language models of transformers, audited

transformers {transformers}, torch {torch}, {date}, on a CPU. Written by `python bench/transformers_page.py`.

Of {known} model types, {built} were built tiny from their default config, with new weights. Two things were done:

- **An audit** of {audited} classes: causality, prefix consistency, cache parity (with `generate`), position parity, and
  whether the loss is the mean over the next tokens, at 1e-9 standard deviations of the logits in fp64, at 1e-4 in fp32
  for {coarse} classes. {earlier} of these audits are of a version that tried no `StaticCache` and did not reorder rows.
- **Plain calls without Litmus** of {called} classes: `bench/confirm_transformers.py` makes the few calls that show each
  kind of finding, on one text of 12 tokens, in fp32. A finding is published as confirmed if this script shows it, with
  the script's figure: the largest difference in standard deviations of the logits, above {limit:g}. {uncalled} audited
  classes were not called yet; their findings are of the same kinds, and the figures are the audit's.

{faulty_count} classes have confirmed findings, {unclear_count} failed or raised in a way that nobody confirmed,
{sound_count} pass the audit. {agree_count} pass the calls and were not audited; a few calls are no audit.
{not_built_count} could not be built.

A finding is about these classes with these configs. Some are the class's own definition (a prefix model attends to its
whole prompt); either way batched, cached or trained results differ from those of model(tokens).

## Findings

| class | confirmed finding | how | not confirmed |
|---|---|---|---|
{faulty}

Ten lines show each kind for one class:

{scripts}

## Not confirmed

A check of the audit failed in these classes, or a call raised, and nobody has confirmed why: it may be the tiny config,
or the audit.

{unclear}

## Passed the audit, and the calls where they were made

{sound}

## Passed the calls, not audited

{agree}

## Not built

| class | why |
|---|---|
{not_built}
"""


def main() -> None:
    ROWS.with_suffix(".md").write_text(page(rows_of(ROWS), rows_of(CONFIRMED), LIMIT), encoding="utf-8")


if __name__ == "__main__":
    main()
