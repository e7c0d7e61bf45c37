"""The result of a finished training: its cost, its evaluation and its learning curve."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from litmus.errors import BadInput
from litmus.files import read_regular_file
from litmus.runtime.precision import Precision
from litmus.training.evaluation import Evaluation
from litmus.training.run.metrics import read_metrics

RESULT = "result.json"


class CurvePoint(BaseModel):
    """One validation, and the mean training loss since the previous one, in nats per token.

    train_loss: None if the lines of those steps are lost. train_parts: mean of each term of the training loss,
    unweighted, if there are several. Version 0.1.0 wrote `held_out_loss` and `held_out_bpb`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    tokens: int
    seconds: float
    train_loss: float | None
    train_parts: dict[str, float] = {}
    val_loss: float = Field(validation_alias=AliasChoices("val_loss", "held_out_loss"))
    val_bpb: float = Field(validation_alias=AliasChoices("val_bpb", "held_out_bpb"))


class RunResult(BaseModel):
    """Cost and score of a finished training; result.json. stopped_early: before its budget, by its `patience`."""

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
    stopped_early: bool = False
    curve: list[CurvePoint]
    sample: str


def read_result(folder: Path) -> RunResult | None:
    """The result of a run, None if it is not finished or the file is damaged."""
    path = Path(folder) / RESULT
    try:
        return RunResult.model_validate_json(read_regular_file(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValidationError):
        return None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def curve(path: Path) -> list[CurvePoint]:
    """The validations in a metrics.jsonl, each with the mean training loss since the previous one.

    Lines that are damaged, or lack a value, are skipped.
    """
    points: list[CurvePoint] = []
    losses: list[dict[str, float]] = []
    for event in read_metrics(path):
        if event["kind"] == "train":
            losses.append({key: event[key] for key in event if key == "loss" or key.startswith("loss/")})
        elif event["kind"] == "val":
            names = dict.fromkeys(key for loss in losses for key in loss)
            means = {key: _mean([loss.get(key) for loss in losses]) for key in names}
            timing = event.get("timing")
            point = {
                "step": event["step"],
                "tokens": event.get("tokens"),
                "seconds": timing.get("seconds") if isinstance(timing, dict) else None,
                "train_loss": means.pop("loss", None),
                "train_parts": {key.removeprefix("loss/"): mean for key, mean in means.items() if mean is not None},
                "val_loss": event.get("loss"),
                "val_bpb": event.get("bpb"),
            }
            with contextlib.suppress(ValidationError):
                points.append(CurvePoint.model_validate(point))
            losses = []
    return points


def _mean(values: list[Any]) -> float | None:
    """The mean of the values that are numbers, None if none is."""
    numbers = [value for value in values if isinstance(value, float | int)]
    return sum(numbers) / len(numbers) if numbers else None
