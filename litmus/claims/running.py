"""Running claims: each experiment of a protocol, then the record with its figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from litmus.claims.experiments import Lab, run_experiment
from litmus.claims.protocol import Check, Claim, Scale, claim_named
from litmus.claims.record import Figure, Record, read_record, record_path
from litmus.errors import BadInput, Failed
from litmus.files import real_path
from litmus.locks import folder_lock
from litmus.runtime.device import pick_device
from litmus.runtime.hardware import hardware, versions


def run_claims(names: Sequence[str], scale: Scale, results: Path, lab: Lab) -> tuple[list[Record], dict[str, str]]:
    """The records of these claims, run now or before, and the reason by claim for those that could not be run.

    A claim that has a record of this protocol is not run again. What an interruption leaves is continued: comparisons
    keep their trials.
    """
    claims = [claim_named(name, scale) for name in names]
    if scale == "gpu" and lab.device is None and pick_device("auto").type == "cpu":
        raise BadInput(
            "scale gpu takes days on a CPU, and this machine has no GPU; --device cpu asks for it all the same"
        )
    records, failures = [], {}
    for number, claim in enumerate(claims, 1):
        title = f"claim {number} of {len(claims)}, {claim.name}: {claim.title}"
        lab.console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
        try:
            records.append(run_claim(claim, results, replace(lab, comparisons={})))
        except (BadInput, Failed) as error:
            if len(claims) == 1:
                raise
            failures[claim.name] = str(error)
            lab.console.print(f"{claim.name} was not run: {error}", highlight=False, markup=False, soft_wrap=True)
        else:
            lab.console.print(f"{claim.name}: {records[-1].verdict}", highlight=False, markup=False)
    return records, failures


def run_claim(claim: Claim, results: Path, lab: Lab) -> Record:
    """The record of a claim, which is run unless there is one of the same protocol and model."""
    path = record_path(results, claim.name, claim.scale)
    with folder_lock(path, "running the claim of"):
        takes_model = any(isinstance(one, Check) and one.trained is not None for one in claim.experiments)
        model = real_path(lab.model).name if lab.model is not None and takes_model else None
        kept = read_record(path)
        if kept is not None and (kept.sha256, kept.model) == (claim.sha256, model):
            lab.console.print(f"{path} has this protocol's result already", highlight=False, markup=False)
            return kept
        started = time.monotonic()
        figures: dict[str, Figure] = {}
        for experiment in claim.experiments:
            lab.console.print(f"{experiment.kind}: {experiment.name}", highlight=False, markup=False)
            figures |= run_experiment(experiment, lab, figures)
        record = Record(
            claim=claim,
            sha256=claim.sha256,
            figures=figures,
            date=datetime.now(UTC).date().isoformat(),
            seconds=round(time.monotonic() - started, 1),
            command=command_of(claim),
            hardware=hardware(pick_device(lab.device or "auto")),
            versions=versions(),
            folders=[comparison.folder.name for comparison in lab.comparisons.values()],
            model=model,
        )
        record.save(results)
    return record


def command_of(claim: Claim) -> str:
    """The command that runs the claim."""
    return f"litmus claims run {claim.name}" + ("" if claim.scale == "cpu" else f" --scale {claim.scale}")
