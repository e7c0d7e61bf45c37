"""Assertions on any causal language model, for anybody's tests: no recipe, no run folder, no training.

    from litmus.testing import assert_causal

    def test_no_token_sees_the_future():
        assert_causal(GPT(config), vocab_size=256)

`model` is an `nn.Module` (nanoGPT's `logits, loss = model(idx, targets)`, a model of transformers, logits alone, a
Decoder) or a function from tokens (B, T) to logits (B, T, V); it is copied, not modified. vocab_size, context: where
the model does not state them. BadInput if the model has nothing to assert on, such as a cache.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.adapters import target_of
from litmus.auditing.check import Check, Evidence
from litmus.auditing.checks import FORWARD, cache_parity, causality, position_parity, prefix_consistency
from litmus.auditing.target import AuditTarget
from litmus.errors import BadInput
from litmus.nn.core.batch import IGNORED

__all__ = ["assert_cache_matches", "assert_causal", "assert_loss_is_mean", "assert_padding_ignored"]

Model = Callable[..., Any]

WEIGHT_TOLERANCE = 0.02
"""Relative tolerance of what a target counts in the loss, which may be computed in fp32; faults are factors."""


def assert_causal(model: Model, vocab_size: int | None = None, *, context: int | None = None) -> None:
    """Each prediction depends on no later token, no other row of the batch, and not on the length of what follows."""
    target = opened(model, vocab_size, context)
    hold(target, causality.CHECK, causality.CHECK.gather(target))
    hold(target, prefix_consistency.CHECK, prefix_consistency.CHECK.gather(target))


def assert_cache_matches(model: Model, vocab_size: int | None = None, *, context: int | None = None) -> None:
    """Decoding with the cache, in chunks of any size, gives the logits of the full forward pass."""
    target = opened(model, vocab_size, context)
    hold(target, cache_parity.CHECK, cache_parity.CHECK.gather(target))


def assert_padding_ignored(model: Model, vocab_size: int | None = None, *, context: int | None = None) -> None:
    """A text next to padding, on the left or on the right, has the logits that it has alone."""
    target = opened(model, vocab_size, context)
    hold(target, position_parity.CHECK, position_parity.nothing_shifts(target))


def assert_loss_is_mean(model: Model, vocab_size: int | None = None, *, context: int | None = None) -> None:
    """The loss is the mean of -log softmax over the targets that are scored, whatever batch and length.

    Terms that depend on no target, such as a balance loss of experts, do not count.
    """
    target = opened(model, vocab_size, context)
    if reason := target.lacks("loss"):
        raise BadInput(f"{target.name} has no loss to assert on: {reason}")
    for batch, length, scored in ((1, 5, 5), (3, 8, 8), (2, 9, 4)):
        length = target.length(length)
        tokens = target.tokens(batch, length)
        weights = weight_of_each_target(target, tokens, scored)
        expected = 1 / (batch * min(scored, length))
        wrong = ((weights - expected).abs() > WEIGHT_TOLERANCE * expected).nonzero().tolist()
        if wrong:
            row, position = wrong[0]
            raise AssertionError(
                f"{target.name}: the loss is no mean over the {batch * min(scored, length)} scored targets of "
                f"{batch} x {length} tokens: the target at position {position} of row {row} (token "
                f"{int(tokens[row, position])}) counts {float(weights[row, position]):.4g} instead of {expected:.4g}"
            )


@torch.no_grad()
def weight_of_each_target(target: AuditTarget, tokens: Tensor, scored: int) -> Tensor:
    """How much each target's -log softmax counts in the loss, (B, scored), by changing one target at a time."""
    model = target.model
    targets = target.tokens(len(tokens), tokens.shape[1], seed=1)
    others = target.other_tokens(targets)
    targets[:, scored:] = IGNORED
    log_p = model(tokens).double().log_softmax(-1)
    before = model.loss(tokens, targets).total
    weights = torch.zeros(len(tokens), min(scored, tokens.shape[1]), dtype=torch.float64)
    for row, position in torch.cartesian_prod(*(torch.arange(size) for size in weights.shape)).tolist():
        changed = targets.clone()
        changed[row, position] = others[row, position]
        effect = float(model.loss(tokens, changed).total - before)
        one, other = (log_p[row, position, t[row, position]] for t in (targets, others))
        weights[row, position] = effect / float(one - other)
    return weights


def opened(model: Model, vocab_size: int | None, context: int | None) -> AuditTarget:
    """The target for a model whose forward pass works."""
    target = target_of(model, quick=True, vocab_size=vocab_size, context=context)
    target.trains = False  # that takes longer than a test may
    hold(target, FORWARD, FORWARD.gather(target))
    return target


def hold(target: AuditTarget, check: Check, evidence: Iterator[Evidence]) -> None:
    """AssertionError at the first fault; BadInput if nothing was observed, because the target lacks what that takes."""
    exact = target.exact() if check.exact else contextlib.nullcontext()
    ended = contextlib.closing(evidence)  # type: ignore[type-var]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), exact, ended:
        warnings.simplefilter("ignore")
        seen = []
        for found in evidence:
            if found.fault:
                measured = "" if found.measured is None else f" ({found.measured:.3g}, limit {found.tolerance:.3g})"
                where = f"; where: {found.where}" if found.where else ""
                raise AssertionError(f"{target.name} {found.mark or check.mark}: {found.what}{measured}{where}")
            seen.append(found)
    if all(found.skipped for found in seen):
        raise BadInput(f"{target.name} cannot be tested for {check.name}: {'; '.join(found.what for found in seen)}")
