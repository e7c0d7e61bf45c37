"""The run that a pruning or quantization writes, with its lineage, and what it costs and gains against its source."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from litmus.data import TokenData
from litmus.errors import BadInput
from litmus.files import folder_written_atomically
from litmus.generation.decode_weights import prepare
from litmus.generation.generate import generate_tokens
from litmus.model import Decoder, Recipe
from litmus.model.storage import RECIPE, WEIGHTS
from litmus.runtime.hardware import versions
from litmus.training.budget import Usage
from litmus.training.paired import BlockScores, Estimate, score_blocks
from litmus.training.run.checkpoints import State, save_checkpoint
from litmus.training.run.config import CHECKPOINTS, RUN, TOKENIZER, Compression, LoadedRun, Start


def check_free(folder: Path) -> None:
    """BadInput if there is something at `folder` already."""
    if folder.exists():
        raise BadInput(f"{folder} is there already; choose another name with --name, or delete it")


def write_compressed(
    source: LoadedRun, folder: Path, recipe: Recipe, tensors: dict[str, Tensor], done: Compression
) -> None:
    """Write the run `folder`: `tensors` at step 0, the source's tokenizer, and its configuration with the lineage."""
    check_free(folder)
    update: dict[str, Any] = {
        "recipe": recipe.to_dict(),
        "start": Start(run=str(source.folder), step=source.step),
        "compression": (*source.config.compression, done),
        "extensions": (),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    config = source.config.model_copy(update=update)
    with folder_written_atomically(folder) as fresh:
        (fresh / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        source.tokenizer.save(fresh / TOKENIZER)
        (fresh / RUN).write_text(config.to_yaml(), encoding="utf-8")
        save_checkpoint(fresh / CHECKPOINTS, recipe, tensors, {}, State(usage=Usage(), peak_memory_bytes=0))


@dataclass(frozen=True)
class Change:
    """A model before and after a compression, scored on the same windows of text.

    bytes: of the weights on disk. difference: in bits per byte, after minus before. decode_ms: milliseconds per token
    of greedy decoding, where it was measured.
    """

    before: BlockScores
    after: BlockScores
    bytes: tuple[int, int]
    decode_ms: tuple[float, float] | None = None

    @property
    def difference(self) -> Estimate:
        """Bits per byte that the compression costs."""
        return self.after.bits_per_byte(self.before)

    def to_dict(self) -> dict[str, Any]:
        """The change as plain data."""
        return {
            "bits_per_byte": [self.before.bits_per_byte().mean, self.after.bits_per_byte().mean],
            "perplexity": [self.before.perplexity, self.after.perplexity],
            "difference": vars(self.difference),
            "bytes": list(self.bytes),
            "decode_ms": None if self.decode_ms is None else list(self.decode_ms),
        }

    def rows(self) -> list[list[str]]:
        """The rows of a table, the first being its header."""
        (old, new), bits = self.bytes, [one.bits_per_byte().mean for one in (self.before, self.after)]
        rows = [
            ["", "before", "after", "change"],
            ["bits per byte", f"{bits[0]:.4f}", f"{bits[1]:.4f}", str(self.difference)],
            ["perplexity", f"{self.before.perplexity:,.2f}", f"{self.after.perplexity:,.2f}", ""],
            ["bytes of weights", f"{old:,}", f"{new:,}", f"{new / old:.3f}x"],
        ]
        if self.decode_ms is not None:
            slow, fast = self.decode_ms
            rows.append(["ms per decoded token", f"{slow:.2f}", f"{fast:.2f}", f"{fast / slow:.2f}x"])
        return rows


def scored(model: Decoder, source: LoadedRun, data: TokenData, limit_tokens: int | None) -> BlockScores:
    """The score of a model on the windows that its source is evaluated on."""
    context = min(source.config.resolved.context, model.recipe.context)
    return score_blocks(model, data, context=context, batch=source.config.training.batch, limit_tokens=limit_tokens)


def decode_ms(before: Decoder, after: Decoder, *, bits: int | None = None, tokens: int = 32) -> tuple[float, float]:
    """Median milliseconds per token of greedy decoding by each model, measured in turn after one warm-up.

    With 8 or 4 `bits` the second one decodes with weights of so many (`litmus generate --int8`, `--int4`), and the
    first one in bf16.
    """
    prompt = [list(range(1, 17))]
    tokens = min(tokens, before.recipe.context - 17, after.recipe.context - 17)
    if tokens < 1:
        raise BadInput(f"a context of {before.recipe.context} is too short to measure decoding; leave out --time")
    first = prepare(before, "bf16" if bits in (8, 4) else None)
    sides = [first.eval(), prepare(after, int8=bits == 8, int4=bits == 4).eval()]
    times: tuple[list[float], list[float]] = [], []
    for round_number in range(4):
        for model, milliseconds in zip(sides, times, strict=True):
            start = time.perf_counter()
            generate_tokens(model, prompt, max_new_tokens=tokens, temperature=0.0)
            if round_number:
                milliseconds.append(1000 * (time.perf_counter() - start) / tokens)
    return statistics.median(times[0]), statistics.median(times[1])


def weight_bytes(folder: Path, step: int) -> int:
    """Bytes of a run's weights on disk at a step."""
    return (folder / CHECKPOINTS / str(step) / WEIGHTS).stat().st_size
