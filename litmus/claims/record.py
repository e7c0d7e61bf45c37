"""What a claim's run leaves: its figures with intervals, from which the verdict follows. Torch is not imported here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.claims.protocol import Claim, Criterion, Region, Scale
from litmus.errors import BadInput
from litmus.files import read_regular_file, write_atomically

Word = Literal["confirmed", "refuted", "inconclusive"]

RESULTS = "runs/claims"
"""The default folder of records."""


class Figure(BaseModel):
    """A measured number with its interval; exact ones have low = value = high, and a missing one a note why.

    values: what the interval is of, by seed or repeat. count: how many.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    label: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    count: int = 1
    values: dict[str, float] = {}
    note: str = ""


@dataclass(frozen=True)
class Condition:
    """A criterion with the figure that it is about, and the word that follows."""

    criterion: Criterion
    figure: Figure
    word: Word


class Record(BaseModel):
    """One run of a claim: its protocol as it was, the figures by name, and where and how they were made.

    folders: of the comparisons, in the folder of runs. model: the folder that --model named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    claim: Claim
    sha256: str
    figures: dict[str, Figure]
    date: str
    seconds: float
    command: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    folders: list[str]
    model: str | None = None

    @property
    def conditions(self) -> list[Condition]:
        """Every criterion of the protocol with its word."""
        return [
            Condition(criterion, figure, word_of(figure, criterion))
            for criterion in self.claim.criteria
            for figure in [self.figures[criterion.figure]]
        ]

    @property
    def verdict(self) -> Word:
        """Refuted if one condition is, confirmed if all are, else inconclusive."""
        return overall(condition.word for condition in self.conditions)

    def save(self, folder: Path) -> Path:
        """Write the record into the folder of records, atomically."""
        path = record_path(folder, self.claim.name, self.claim.scale)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.model_dump_json(indent=1) + "\n")
        return path


def word_of(figure: Figure, criterion: Criterion) -> Word:
    """Confirmed if the whole interval lies in that region, refuted if in the other; else, or in both, inconclusive."""
    confirmed, refuted = (within(figure, region) for region in (criterion.confirmed, criterion.refuted))
    if confirmed == refuted:
        return "inconclusive"
    return "confirmed" if confirmed else "refuted"


def within(figure: Figure, region: Region | None) -> bool:
    """Whether the whole interval lies in the closed region."""
    if region is None or figure.low is None or figure.high is None:
        return False
    low, high = region
    return (low is None or figure.low >= low) and (high is None or figure.high <= high)


def overall(words: Iterable[Word]) -> Word:
    """The word on a claim, from those on its conditions."""
    found = set(words)
    if "refuted" in found:
        return "refuted"
    return "confirmed" if found == {"confirmed"} else "inconclusive"


def record_path(folder: Path, name: str, scale: Scale) -> Path:
    """The record of a claim at a scale."""
    return folder / (f"{name}.json" if scale == "cpu" else f"{name}.{scale}.json")


def read_record(path: Path) -> Record | None:
    """The record in a file, None if there is none; BadInput for a file that is no record."""
    try:
        return Record.model_validate_json(read_regular_file(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise BadInput(f"{path} is not the record of a claim ({where}); move it away") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
