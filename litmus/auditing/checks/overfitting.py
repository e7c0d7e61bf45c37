"""Can it learn? One small batch that needs context is overfitted."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from litmus.auditing.check import Check, Evidence
from litmus.auditing.hooks import training_loss
from litmus.auditing.target import AuditTarget
from litmus.model import Decoder

ROWS, LENGTH, SYMBOLS = 4, 12, 8
STEPS = 250
RATE = 0.25
"""The learning rate times the width: what one step changes in an activation then is the same at any width."""
LEARNED = 0.1
"""Nats per token that count as known by heart: a typical token is then given 90 %."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    tokens, targets = batch(target)
    rates = [RATE / target.recipe.dim, RATE / target.recipe.dim / 4]
    reached = []
    for rate in rates:
        loss, steps = overfit(target.build_model(dtype=torch.float32), tokens, targets, rate)
        if loss <= LEARNED:
            yield Evidence(
                f"a batch of {ROWS} x {tokens.shape[1]} tokens is overfitted in {steps} steps at lr {rate:.2g}",
                measured=loss,
                tolerance=LEARNED,
            )
            return
        reached.append(loss)
    best = min(range(len(reached)), key=lambda i: math.inf if math.isnan(reached[i]) else reached[i])
    yield Evidence(
        f"after {STEPS} steps on one batch of {ROWS} x {tokens.shape[1]} tokens the loss is still {reached[best]:.2f} "
        f"nats (lr {rates[best]:.2g}; {' and '.join(f'{rate:.2g}' for rate in rates)} were tried)",
        fault=True,
        measured=reached[best],
        tolerance=LEARNED,
    )


def batch(target: AuditTarget) -> tuple[Tensor, Tensor]:
    """Inputs and targets: random rows of few symbols, so that no token tells the next one without its context.

    Each row begins with a token of its own, so that everything after it can be known.
    """
    length = target.length(LENGTH)
    symbols = min(SYMBOLS, max(2, target.recipe.vocab_size - ROWS))
    rows = target.tokens(ROWS, length + 1, seed=100) % symbols
    rows[:, 0] = torch.arange(ROWS) + symbols
    rows %= target.recipe.vocab_size
    return rows[:, :-1], rows[:, 1:]


def overfit(model: Decoder, tokens: Tensor, targets: Tensor, rate: float) -> tuple[float, int]:
    """The evaluated loss on the batch after training on it alone, and after how many steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    nats = math.inf
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(step / 10, 1.0, (50 / step) ** 0.5)
        loss = training_loss(model, tokens, targets, seed=step).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.post_optimizer_step()
        if step % 10 == 0:
            nats = float(model.eval().token_losses(tokens, targets).mean())
            if nats <= LEARNED or math.isnan(nats):
                return nats, step
    return nats, STEPS


CHECK = Check(
    name="overfits one batch",
    asserts="The model learns one small batch by heart within 250 steps.",
    how="4 rows of 12 tokens over 8 symbols, each row beginning with a token of its own, so that context is needed and "
    "suffices; AdamW at two learning rates until one succeeds; judged by token_losses in evaluation mode.",
    tolerance="0.1 nats per token: the right token has 90 % where chance gives 12 %. The built-in recipes need 30 to "
    "200 steps.",
    means="It cannot use context or its gradients are broken; a comparison would measure how badly.",
    mark="cannot learn a single batch",
    gather=gather,
)
