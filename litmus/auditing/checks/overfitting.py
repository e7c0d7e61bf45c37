"""Overfits one batch: a small batch that needs context is learned to nearly zero loss."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from litmus.auditing.check import Check, Evidence, needs
from litmus.auditing.hooks import training_loss
from litmus.auditing.target import AuditTarget
from litmus.model import Decoder

ROWS, ROW_TOKENS, SYMBOLS = 4, 12, 8
MAX_STEPS = 250
LR_TIMES_WIDTH = 0.25
"""Learning rate times width, so that one step changes activations equally at any width."""
MAX_NATS = 0.1
"""Nats per token at which the batch counts as learned: a typical token then has probability 0.9."""


@needs("loss", "weights")
def gather(target: AuditTarget) -> Iterator[Evidence]:
    tokens, targets = batch(target)
    rates = [LR_TIMES_WIDTH / target.width, LR_TIMES_WIDTH / target.width / 4]
    reached = []
    for rate in rates:
        loss, steps = overfit(target.build_model(dtype=torch.float32), tokens, targets, rate)
        if loss <= MAX_NATS:
            yield Evidence(
                f"overfits a batch of {ROWS} x {tokens.shape[1]} tokens in {steps} steps at lr {rate:.2g}",
                measured=loss,
                tolerance=MAX_NATS,
            )
            return
        reached.append(loss)
    best = min(range(len(reached)), key=lambda i: math.inf if math.isnan(reached[i]) else reached[i])
    yield Evidence(
        f"after {MAX_STEPS} steps on one batch of {ROWS} x {tokens.shape[1]} tokens the loss is still "
        f"{reached[best]:.2f} nats (lr {rates[best]:.2g}; {' and '.join(f'{rate:.2g}' for rate in rates)} were tried)",
        fault=True,
        measured=reached[best],
        tolerance=MAX_NATS,
    )


def batch(target: AuditTarget) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T): random rows over few symbols, so that predicting a token needs its context.

    Each row begins with a unique token, so that the rest of the row is predictable.
    """
    length = target.length(ROW_TOKENS)
    symbols = min(SYMBOLS, max(2, target.vocab_size - ROWS))
    rows = target.tokens(ROWS, length + 1, seed=100) % symbols
    rows[:, 0] = torch.arange(ROWS) + symbols
    rows = target.few_tokens(rows)
    return rows[:, :-1], rows[:, 1:]


def overfit(model: Decoder, tokens: Tensor, targets: Tensor, rate: float) -> tuple[float, int]:
    """Train on one batch; the loss on it in evaluation mode, in nats per token, and the number of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    nats = math.inf
    for step in range(1, MAX_STEPS + 1):
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
            if nats <= MAX_NATS or math.isnan(nats):
                return nats, step
    return nats, MAX_STEPS


CHECK = Check(
    name="overfits one batch",
    asserts="The model overfits one small batch within 250 steps.",
    how="4 rows of 12 tokens over 8 symbols, each row beginning with a unique token, so that context is needed and "
    "suffices; AdamW at two learning rates until one succeeds; judged by token_losses in evaluation mode.",
    tolerance="0.1 nats per token: the right token has 90 %, at random 12 %. Built-in recipes need 30 to 200 steps.",
    means="It cannot use context or its gradients are wrong.",
    mark="cannot learn a single batch",
    gather=gather,
)
