"""The stored results of a comparison: one record per finished trial, and all of them with their terms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    ValidationError,
    model_serializer,
    model_validator,
)

from litmus.errors import BadInput, nearest
from litmus.files import read_regular_file, write_atomically
from litmus.training.evaluation import Evaluation
from litmus.training.run.result import RunResult

Role = Literal["arm", "noise", "sweep"]
M = TypeVar("M", bound=BaseModel)

_EVALUATION_KEYS = {
    **{name: name for name in Evaluation.model_fields if name not in ("tokens", "bytes")},
    "val_tokens": "tokens",
    "val_bytes": "bytes",
}
"""Keys of a stored trial that belong to its evaluation, and their names there."""

_OLD_KEYS = {"layer_figures": "layer_stats", "held_out_tokens": "val_tokens", "held_out_bytes": "val_bytes"}
"""Keys that version 0.1.0 wrote. It did not store a trial's precision."""


class Record(BaseModel):
    """Stored data: unknown keys are errors, and NaN is stored as the string "NaN"."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


def read_record(path: Path, kind: type[M]) -> M | None:
    """The record in a JSON file; None if the file is missing or damaged, so that the caller makes it again."""
    check_is_file(path)
    try:
        return kind.model_validate_json(read_regular_file(path))
    except (OSError, ValidationError):
        return None


def check_is_file(path: Path) -> None:
    """BadInput if `path` exists and is not a regular file."""
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "not a regular file"
        raise BadInput(f"{path} is {found} where a file of the comparison belongs; move it away")


class TrialResult(Record):
    """One finished trial: the result of its run, and the reason if it failed.

    role: "arm" trials are judged; "noise" trials train the baseline again on the same data order from another
    initialization, each paired with the baseline's trial of that seed; "sweep" trials choose a learning rate. A failed
    trial is a result too: `failed` holds the reason, and the scores in `run` may be NaN.

    In JSON a trial is one flat mapping: the fields of `run` and of its evaluation are keys of the trial.
    """

    arm: str
    seed: int
    lr: float
    role: Role
    run: RunResult
    failed: str | None = None

    @property
    def evaluation(self) -> Evaluation:
        """The score and diagnostics on the held-out text."""
        return self.run.evaluation

    @property
    def bits_per_byte(self) -> float:
        """The held-out score."""
        return self.run.evaluation.bits_per_byte

    @property
    def accuracy(self) -> float:
        """The share of right answers to a probe; NaN for text."""
        found = self.run.evaluation.accuracy
        return math.nan if found is None else found

    @model_serializer
    def _flatten(self, info: SerializationInfo) -> dict[str, Any]:
        run = self.run.model_dump(mode=info.mode)
        evaluation = run.pop("evaluation")
        own = {"arm": self.arm, "seed": self.seed, "lr": self.lr, "role": self.role}
        return {
            **own,
            **run,
            **{key: evaluation[name] for key, name in _EVALUATION_KEYS.items()},
            "failed": self.failed,
        }

    @model_validator(mode="before")
    @classmethod
    def _unflatten(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "run" in raw:
            return raw
        raw = {_OLD_KEYS.get(key, key): value for key, value in raw.items()}
        own = {key: value for key, value in raw.items() if key in cls.model_fields}
        evaluation = {name: raw[key] for key, name in _EVALUATION_KEYS.items() if key in raw}
        run = {key: value for key, value in raw.items() if key not in own and key not in _EVALUATION_KEYS}
        return {**own, "run": {"precision": None, **run, "evaluation": evaluation}}

    @model_validator(mode="after")
    def _check_score(self) -> Self:
        if self.failed is None and not math.isfinite(self.bits_per_byte):
            raise ValueError(
                f"trial {self.arm} seed {self.seed} scored {self.bits_per_byte} bits per byte; "
                f"a trial without a finite score needs a reason in `failed`"
            )
        return self


class EarlierDifferences(Record):
    """The paired differences, in the primary metric, of an arm of an earlier comparison on the same terms."""

    comparison: str
    arm: str
    values: Annotated[list[float], Field(min_length=2)]


class ComparisonResult(Record):
    """A finished comparison: its terms (arms in order, baseline, primary metric, budget) and its trials.

    margin: the largest difference that counts as none; None if equivalence was not asked for. looks: the fewest and
    most seeds, if seeds were added until every arm was decided; None for a fixed number.
    prior: differences of earlier comparisons whose variance the verdicts draw on.
    arm_notes: for an arm without a score, the finding that replaces it, such as "fails audit: sees the future".
    context: shown in the report as it is: command, hardware, versions, data and its fingerprint, precision.
    """

    name: str
    baseline: str
    arms: list[str]
    budget: str
    trials: list[TrialResult]
    primary: str = "bpb"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    margin: Annotated[float, Field(gt=0)] | None = None
    looks: tuple[int, int] | None = None
    prior: list[EarlierDifferences] = []
    arm_notes: dict[str, str] = {}
    context: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_trials(self) -> Self:
        for named in [self.baseline, *self.arm_notes, *(trial.arm for trial in self.trials)]:
            if named not in self.arms:
                raise ValueError(f"{named!r} is not an arm of this comparison; {nearest(named, self.arms)}")
        seen: set[tuple[object, ...]] = set()
        for trial in self.trials:
            if trial.role == "noise" and trial.arm != self.baseline:
                raise ValueError(f"noise trial of {trial.arm!r}; only the baseline, {self.baseline!r}, has them")
            identity = (trial.arm, trial.role, trial.seed, trial.lr if trial.role == "sweep" else None)
            if identity in seen:
                raise ValueError(f"two {trial.role} trials of {trial.arm!r} with seed {trial.seed}; one is allowed")
            seen.add(identity)
        scored = {trial.evaluation.bytes for trial in self.trials if trial.failed is None and trial.role != "sweep"}
        if len(scored) > 1:
            raise ValueError(f"trials were scored on {sorted(scored)} held-out bytes; all must be on the same bytes")
        return self

    @property
    def score_name(self) -> str:
        """What the scores are in: bits per byte of text, or per answer to a probe."""
        return "bits per answer" if self.is_probe else "bits per byte"

    @property
    def is_probe(self) -> bool:
        """Whether the trials learned a probe's examples in place of text."""
        return any(trial.evaluation.accuracy is not None for trial in self.trials)

    def trials_of(self, arm: str, role: Role = "arm") -> list[TrialResult]:
        """The trials of `arm` with this role, sorted by seed and learning rate, failed ones included."""
        chosen = [trial for trial in self.trials if trial.arm == arm and trial.role == role]
        return sorted(chosen, key=lambda trial: (trial.seed, trial.lr))

    def scored(self, arm: str, role: Role = "arm") -> list[TrialResult]:
        """The trials of `arm` whose scores count: not failed, and not of an arm with a note."""
        return [] if arm in self.arm_notes else [t for t in self.trials_of(arm, role) if t.failed is None]

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, atomically."""
        write_atomically(Path(path), self.model_dump_json(indent=1))

    @classmethod
    def load(cls, path: str | Path) -> ComparisonResult:
        """Read a result written by `save`."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BadInput(f"{path} is not a file; give the JSON file that a comparison wrote") from error
        except UnicodeDecodeError as error:
            raise BadInput(f"{path} is not the result of a comparison: it is not UTF-8 text") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise BadInput(f"{path} is not the result of a comparison: {where}: {first['msg']}") from error
