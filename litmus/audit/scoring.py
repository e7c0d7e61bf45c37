"""What evaluation counts: every target it is handed, each with the probability that model(tokens) gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litmus.audit.check import Evidence, counted
from litmus.audit.target import AuditTarget
from litmus.data import TokenData, Tokenizer
from litmus.model import Decoder
from litmus.training.evaluation import evaluate

Evaluate = Callable[..., Any]

SINGLE = 1e-5
"""Nats by which token_losses, which are fp32 at least, may differ from the definition in fp64."""


class EveryTokenAByte(Tokenizer):
    """Tokens that need no text: each counts as one byte."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__("none", [b"."] * vocab_size, end=0)

    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        raise NotImplementedError


def scored(target: AuditTarget) -> Iterator[Evidence]:
    """model.token_losses against -log softmax(model(tokens)), target by target."""
    model, limit = target.model, max(SINGLE, target.rounding)
    long = min(target.recipe.context, target.longest, target.pick(520, 1100))
    for batch, length in ((3, target.length(50)), (1, long)):
        tokens, targets = target.tokens(batch, length, seed=40), target.tokens(batch, length, seed=41)
        targets[:, 3::11] = -100
        wanted = targets != -100
        given = model.token_losses(tokens, targets).double()
        if given.shape != targets.shape:
            yield fault(f"model.token_losses gives shape {tuple(given.shape)} for targets {tuple(targets.shape)}")
            return
        skipped = wanted & (given == 0)
        if skipped.any():
            row, position = skipped.nonzero()[0].tolist()
            yield fault(
                f"evaluation scores {int((wanted & ~skipped).sum())} of the {counted(int(wanted.sum()), 'target')} "
                f"that it is handed{pattern((~skipped & wanted)[0])}",
                where=f"model.token_losses, first skipped at row {row}, position {position}",
                measured=float(skipped.sum() / wanted.sum()),
                tolerance=0.0,
            )
            return
        wrong = (given - nats(model, tokens, targets)).abs()
        if not float(wrong.max()) <= limit:
            position = int(wrong.argmax()) % length
            yield fault(
                "evaluation does not score -log softmax(model(tokens)): a target's nats are off by "
                f"{float(wrong.max()):.3g}",
                where=f"model.token_losses, position {position}",
                measured=float(wrong.max()),
                tolerance=limit,
                mark="is scored on something other than its predictions",
            )
            return
    yield Evidence("evaluation scores every target with the model's own probability")


def held_out(target: AuditTarget, score: Evaluate = evaluate) -> Iterator[Evidence]:
    """Evaluation over a small held-out stream: every token once, none twice, none left out at the end."""
    model, context = target.model, min(24, target.longest)
    stream = target.tokens(1, 5 * context + 7, seed=42)[0].numpy()
    data = TokenData(stream, stream, EveryTokenAByte(target.recipe.vocab_size), "", {})
    result = score(model, data, context=context, batch=2)
    expected = 0.0
    for start in range(0, len(stream) - 1, context):
        window = torch.from_numpy(stream[start : start + context + 1])[None]
        missing = (0, context + 1 - window.shape[1])
        tokens, targets = F.pad(window[:, :-1], missing), F.pad(window[:, 1:], missing, value=-100)
        expected += float(nats(model, tokens, targets).sum())
    count = len(stream) - 1
    if result.tokens != count:
        yield fault(
            f"the held-out score counts {result.tokens} of {count} tokens",
            where="evaluate",
            measured=1 - result.tokens / count,
            tolerance=0.0,
        )
    elif not abs(result.nats_per_token * count - expected) <= 1e-6 * expected:
        yield fault(
            f"the held-out score is {result.nats_per_token:.6g} nats per token where the model's own probabilities "
            f"give {expected / count:.6g}",
            where="evaluate",
            measured=abs(result.nats_per_token - expected / count),
            tolerance=1e-6 * expected / count,
        )
    else:
        yield Evidence("the held-out score takes in every token once")


@torch.no_grad()
def nats(model: Decoder, tokens: Tensor, targets: Tensor) -> Tensor:
    """-log softmax of the model's logits at each target (B, T), 0 where it is -100, by definition."""
    log_p = model(tokens).double().log_softmax(-1)
    return -log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0].masked_fill(targets == -100, 0.0)


def pattern(chosen: Tensor) -> str:
    """ ": positions 3, 7, 11, ..., every 4th", where the chosen positions (T,) are evenly spaced; else ""."""
    places = chosen.nonzero()[:, 0].tolist()
    gaps = {b - a for a, b in pairwise(places)}
    if len(places) < 3 or len(gaps) > 1 or gaps == {1}:
        return ""
    return f": positions {', '.join(map(str, places[:3]))}, ..., every {gaps.pop()}th"


def fault(what: str, mark: str = "is scored on some tokens only", **figures: Any) -> Evidence:
    return Evidence(
        what,
        fault=True,
        mark=mark,
        meaning="Its score is over other tokens than every other model's and cannot be compared with any.",
        **figures,
    )
