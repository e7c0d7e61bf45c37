"""What a finished training leaves: its cost, its score and its curve."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from litmus.training.evaluation import Evaluation
from litmus.training.metrics import read_metrics
from litmus.training.precision import Precision

RESULT = "result.json"


class CurvePoint(BaseModel):
    """The held-out score at one validation, and the mean training loss since the one before (nats per token).

    train_parts: the mean of each term of the training loss, unweighted, where there is more than one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    tokens: int
    seconds: float
    train_loss: float
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
    losses: list[dict[str, float]] = []
    for event in read_metrics(path):
        if event["kind"] == "train":
            losses.append({key: value for key, value in event.items() if key.partition("/")[0] == "loss"})
        elif event["kind"] == "held_out":
            means = {key: sum(loss[key] for loss in losses) / len(losses) for key in losses[0]}
            points.append(
                CurvePoint(
                    step=event["step"],
                    tokens=event["tokens"],
                    seconds=event["timing"]["seconds"],
                    train_loss=means.pop("loss"),
                    train_parts={key.removeprefix("loss/"): mean for key, mean in means.items()},
                    held_out_loss=event["loss"],
                    held_out_bpb=event["bpb"],
                )
            )
            losses = []
    return points
