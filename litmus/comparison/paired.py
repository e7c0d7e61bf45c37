"""Runs scored on the same windows of text, with the interval of their difference: for one model in several forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litmus.comparison.stored import StoredComparison, StoredRun
from litmus.errors import BadInput
from litmus.training.evaluation import held_out_text
from litmus.training.paired import BlockScores, Estimate, score_blocks
from litmus.training.run.config import UNKNOWN_CORPUS, RunConfig
from litmus.training.run.loading import load_run

NOTE = (
    "Differences are to the first run, paired over windows of the same text: their interval is over texts like this "
    "one, not over trainings."
)


@dataclass(frozen=True)
class PairedScore:
    """The score of one run on the common windows, and its difference to the first run (None for that one)."""

    name: str
    folder: Path
    scores: BlockScores
    difference: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """The score as plain data."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "bits_per_byte": vars(self.scores.bits_per_byte()),
            "perplexity": self.scores.perplexity,
            "difference": None if self.difference is None else vars(self.difference),
        }


def is_paired(stored: Sequence[StoredRun | StoredComparison]) -> bool:
    """Whether one of these is a compressed run, which has no score of its own and is compared with what it was."""
    return any(isinstance(one, StoredRun) and bool(one.config.compression) for one in stored)


def paired_scores(
    stored: Sequence[StoredRun | StoredComparison],
    *,
    data: str | None = None,
    limit_tokens: int | None = None,
    trust_plugin: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> list[PairedScore]:
    """Score runs of one tokenizer on the held-out text of the first, or of `data`, in windows of its context."""
    first: RunConfig | None = None
    found: list[PairedScore] = []
    for one in stored:
        if isinstance(one, StoredComparison):
            raise BadInput(f"{one.folder} is a comparison; a paired score is of single runs, such as one of its trials")
        if first is not None and one.config.tokenizer_sha256 != first.tokenizer_sha256:
            raise BadInput(
                f"{one.folder} has another tokenizer than {found[0].folder}, so that windows cannot be paired"
            )
        loaded = load_run(one.folder, trust_plugin=trust_plugin, log=log)
        if first is None:
            first = one.config
            if data is None and first.data.corpus == UNKNOWN_CORPUS:
                raise BadInput(f"{one.folder} was imported and has no text of its own; name one, e.g. --data stdlib")
            text = held_out_text(loaded, data, log)
        scores = score_blocks(
            loaded.model,
            text,
            context=min(first.resolved.context, loaded.model.recipe.context),
            batch=first.training.batch,
            limit_tokens=limit_tokens,
        )
        difference = scores.bits_per_byte(found[0].scores) if found else None
        found.append(PairedScore(one.folder.name, one.folder, scores, difference))
    return found
