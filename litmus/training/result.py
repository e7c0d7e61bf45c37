"""What a finished training leaves: its cost, its score and its curve."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from litmus.training.evaluation import Evaluation
from litmus.training.metrics import read_metrics
from litmus.training.precision import Precision

RESULT = "result.json"


class CurvePoint(BaseModel):
    """The held-out score at one validation, and the mean training loss since the one before (nats per token)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    tokens: int
    seconds: float
    train_loss: float
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
    flops_per_token: float
    cache_bytes_per_token: float
    precision: Precision
    curve: list[CurvePoint]
    sample: str


def read_result(folder: Path) -> RunResult | None:
    """The result of a run, None while it is not finished."""
    path = folder / RESULT
    return RunResult.model_validate_json(path.read_bytes()) if path.is_file() else None


def curve(path: Path) -> list[CurvePoint]:
    """The validations recorded in a metrics.jsonl, each with the mean training loss since the one before."""
    points: list[CurvePoint] = []
    losses: list[float] = []
    for event in read_metrics(path):
        if event["kind"] == "train":
            losses.append(event["loss"])
        elif event["kind"] == "held_out":
            points.append(
                CurvePoint(
                    step=event["step"],
                    tokens=event["tokens"],
                    seconds=event["timing"]["seconds"],
                    train_loss=sum(losses) / len(losses),
                    held_out_loss=event["loss"],
                    held_out_bpb=event["bpb"],
                )
            )
            losses = []
    return points
