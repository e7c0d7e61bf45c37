"""What a finished training leaves: its cost, its score and its curve."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.errors import BadInput
from litmus.files import read_regular_file
from litmus.runtime.precision import Precision
from litmus.training.evaluation import Evaluation
from litmus.training.metrics import read_metrics

RESULT = "result.json"


class CurvePoint(BaseModel):
    """The held-out score at one validation, and the mean training loss since the one before (nats per token).

    train_loss: None where the lines of those steps are gone.
    train_parts: the mean of each term of the training loss, unweighted, where there is more than one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    tokens: int
    seconds: float
    train_loss: float | None
    train_parts: dict[str, float] = {}
    held_out_loss: float
    held_out_bpb: float


class RunResult(BaseModel):
    """What a finished training cost and scored; result.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluation: Evaluation
    steps: int
    tokens: int
    train_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    parameters: int
    parameters_non_embedding: int
    parameters_active: int
    flops_per_token: float
    scored_share: float = 1.0
    cache_bytes_per_token: float
    precision: Precision | None
    curve: list[CurvePoint]
    sample: str


def read_result(folder: Path) -> RunResult | None:
    """The result of a run, None while it is not finished and where the file is damaged."""
    path = Path(folder) / RESULT
    try:
        return RunResult.model_validate_json(read_regular_file(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValidationError):
        return None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def curve(path: Path) -> list[CurvePoint]:
    """The validations recorded in a metrics.jsonl, each with the mean training loss since the one before.

    Lines that are damaged, or lack a figure, are passed over.
    """
    points: list[CurvePoint] = []
    losses: list[dict[str, float]] = []
    for event in read_metrics(path):
        if event["kind"] == "train":
            losses.append({key: event[key] for key in event if key == "loss" or key.startswith("loss/")})
        elif event["kind"] == "held_out":
            names = dict.fromkeys(key for loss in losses for key in loss)
            means = {key: _mean([loss.get(key) for loss in losses]) for key in names}
            timing = event.get("timing")
            figures = {
                "step": event["step"],
                "tokens": event.get("tokens"),
                "seconds": timing.get("seconds") if isinstance(timing, dict) else None,
                "train_loss": means.pop("loss", None),
                "train_parts": {key.removeprefix("loss/"): mean for key, mean in means.items() if mean is not None},
                "held_out_loss": event.get("loss"),
                "held_out_bpb": event.get("bpb"),
            }
            with contextlib.suppress(ValidationError):
                points.append(CurvePoint.model_validate(figures))
            losses = []
    return points


def _mean(values: list[Any]) -> float | None:
    """The mean of those values that are numbers, None where there are none."""
    numbers = [value for value in values if isinstance(value, float | int)]
    return sum(numbers) / len(numbers) if numbers else None
