"""Windows for scoring: every token of a split exactly once, in order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch

from litmus.errors import BadInput

NOT_SCORED = -100


def held_out_windows(
    tokens: np.ndarray,
    *,
    context: int,
    batch: int,
    limit_tokens: int | None = None,
    prefix: Sequence[int] = (),
    given: Collection[int] = (),
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets, (B, T) int64 each, in non-overlapping windows of `context` tokens.

    Every token but the stream's first is a target once; the last window is filled up with targets of -100.
    `limit_tokens` scores only the first so many. The last batch may have fewer rows. `prefix` stands before every
    window that does not begin with it, in its context; tokens in `given` are never predicted, and so not scored.
    """
    check_one_window(tokens, context, "held-out")
    scored = len(tokens) - 1 if limit_tokens is None else min(len(tokens) - 1, limit_tokens)
    if scored < 1 or batch < 1:
        raise BadInput(f"limit_tokens is {limit_tokens} and batch is {batch}; both must be at least 1")
    if context <= len(prefix):
        raise BadInput(f"context is {context}, and {len(prefix)} tokens stand before every sequence; give more")
    return _begun_and_given(_windows(tokens[: scored + 1], context - len(prefix), batch), prefix, given)


def _begun_and_given(
    windows: Iterator[tuple[torch.Tensor, torch.Tensor]], prefix: Sequence[int], given: Collection[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for inputs, targets in windows:
        if given:
            targets[torch.isin(targets, torch.tensor(sorted(given)))] = NOT_SCORED
        yield (inputs, targets) if not prefix else _begun(inputs, targets, torch.tensor(prefix))


def _begun(inputs: torch.Tensor, targets: torch.Tensor, prefix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The windows with `prefix` before them, or as much padding after those that begin with it."""
    before, nothing = prefix.expand(len(inputs), -1), torch.full((len(inputs), len(prefix)), NOT_SCORED)
    begun = (inputs[:, : len(prefix)] == before).all(dim=1, keepdim=True)
    padded = torch.cat((inputs, torch.zeros_like(before)), 1), torch.cat((targets, nothing), 1)
    return (
        torch.where(begun, padded[0], torch.cat((before, inputs), 1)),
        torch.where(begun, padded[1], torch.cat((nothing, targets), 1)),
    )


def _windows(tokens: np.ndarray, context: int, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(tokens) - 1, context * batch):
        stretch = torch.from_numpy(tokens[start : start + context * batch + 1].astype(np.int64))
        scored = len(stretch) - 1
        rows = -(-scored // context)
        inputs = torch.zeros(rows * context, dtype=torch.int64)
        targets = torch.full((rows * context,), NOT_SCORED)
        inputs[:scored] = stretch[:-1]
        targets[:scored] = stretch[1:]
        yield inputs.view(rows, context), targets.view(rows, context)


def document_ids(inputs: torch.Tensor, first: int) -> torch.Tensor:
    """(B, T) int64: which document of its row each input belongs to; the token `first` begins each."""
    return (inputs == first).cumsum(dim=1)


def check_one_window(tokens: np.ndarray, context: int, split: str) -> None:
    """Raise BadInput unless `tokens` hold one window: `context` inputs and the target of the last one."""
    if context < 1:
        raise BadInput(f"context is {context}; it must be at least 1")
    if len(tokens) <= context:
        raise BadInput(
            f"the {split} split is shorter than one window: it has {len(tokens)} tokens, and a context of {context} "
            f"needs {context + 1}; use a longer corpus or a shorter context"
        )
