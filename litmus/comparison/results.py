"""What a comparison leaves behind: a record per finished trial, and all of them with their terms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litmus.errors import BadInput, nearest
from litmus.files import read_regular_file, write_atomically
from litmus.nn import RouterStats
from litmus.training import CurvePoint
from litmus.training.evaluation import ByLayer

Role = Literal["arm", "noise", "sweep"]


M = TypeVar("M", bound=BaseModel)


class Record(BaseModel):
    """Stored data: unknown keys are refused, and a NaN survives JSON (as the string "NaN")."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


def stored(path: Path, kind: type[M]) -> M | None:
    """What a file holds, None where it is missing or damaged: what was in it is made again."""
    refuse_what_is_no_file(path)
    try:
        return kind.model_validate_json(read_regular_file(path))
    except (OSError, ValidationError):
        return None


def refuse_what_is_no_file(path: Path) -> None:
    """BadInput where a folder, or anything else that is no file, stands in the place of a file to be written."""
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "no regular file"
        raise BadInput(f"{path} is {found} where a file of the comparison belongs; move it away")


class TrialResult(Record):
    """One finished trial: what it cost, what it scored, and why it failed if it did.

    `role` says what the trial is for: "arm" is judged, "noise" is the baseline trained again on the same
    data order with another init (paired with the baseline's trial of that seed), "sweep" chose a learning
    rate. A failed trial is a result too: `failed` holds the reason, and its scores may be NaN.
    """

    arm: str
    seed: int
    lr: float
    role: Role
    parameters: int
    parameters_non_embedding: int
    parameters_active: int
    flops_per_token: float
    scored_share: float = 1.0
    cache_bytes_per_token: int
    tokens: int
    steps: int
    train_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    nats_per_token: float
    bits_per_byte: float
    perplexity: float
    held_out_tokens: int
    held_out_bytes: int
    loss_by_position: list[float]
    attention_entropy: ByLayer[float] | None
    layer_figures: dict[str, ByLayer[float]] = {}
    routing: ByLayer[RouterStats] | None = None
    curve: list[CurvePoint]
    sample: str
    failed: str | None = None

    @model_validator(mode="after")
    def _scored_or_failed(self) -> Self:
        if self.failed is None and not math.isfinite(self.bits_per_byte):
            raise ValueError(
                f"trial {self.arm} seed {self.seed} scored {self.bits_per_byte} bits per byte; "
                f"a trial without a finite score needs a reason in `failed`"
            )
        return self


class ComparisonResult(Record):
    """A finished comparison: its terms (arms in order, baseline, primary metric, budget) and its trials.

    `arm_notes` maps an arm to a finding that stands in place of its score, such as "fails audit: sees the
    future". `context` is shown in the report as it is: the command, hardware, versions, data and its
    fingerprint, precision.
    """

    name: str
    baseline: str
    arms: list[str]
    budget: str
    trials: list[TrialResult]
    primary: str = "bpb"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    arm_notes: dict[str, str] = {}
    context: dict[str, Any] = {}

    @model_validator(mode="after")
    def _trials_belong_here(self) -> Self:
        for named in [self.baseline, *self.arm_notes, *(trial.arm for trial in self.trials)]:
            if named not in self.arms:
                raise ValueError(f"{named!r} is not an arm of this comparison; {nearest(named, self.arms)}")
        seen: set[tuple[object, ...]] = set()
        for trial in self.trials:
            if trial.role == "noise" and trial.arm != self.baseline:
                raise ValueError(f"noise trial of {trial.arm!r}; only {self.baseline!r}, the baseline, has them")
            identity = (trial.arm, trial.role, trial.seed, trial.lr if trial.role == "sweep" else None)
            if identity in seen:
                raise ValueError(f"two {trial.role} trials of {trial.arm!r} with seed {trial.seed}; one may be")
            seen.add(identity)
        scored = {trial.held_out_bytes for trial in self.trials if trial.failed is None and trial.role != "sweep"}
        if len(scored) > 1:
            raise ValueError(f"trials were scored on {sorted(scored)} held-out bytes; all must be on the same bytes")
        return self

    def trials_of(self, arm: str, role: Role = "arm") -> list[TrialResult]:
        """The trials of `arm` with this role, by seed and learning rate, failed ones included."""
        chosen = [trial for trial in self.trials if trial.arm == arm and trial.role == role]
        return sorted(chosen, key=lambda trial: (trial.seed, trial.lr))

    def scored(self, arm: str, role: Role = "arm") -> list[TrialResult]:
        """The trials of `arm` whose score counts: none that failed, none of an arm with a note."""
        return [] if arm in self.arm_notes else [t for t in self.trials_of(arm, role) if t.failed is None]

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, in one step."""
        write_atomically(Path(path), self.model_dump_json(indent=1))

    @classmethod
    def load(cls, path: str | Path) -> ComparisonResult:
        """Read a result written by `save`."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BadInput(f"{path} is not a file; give the JSON file that a comparison wrote") from error
        except UnicodeDecodeError as error:
            raise BadInput(f"{path} is not the result of a comparison: it is not text") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise BadInput(f"{path} is not the result of a comparison: {where}: {first['msg']}") from error
