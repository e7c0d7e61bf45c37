"""Overfits one batch: a small batch that needs context is learned to nearly zero loss."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adamw import adamw

from litmus.auditing.check import Check, Evidence, needs
from litmus.auditing.modes import NoDropout
from litmus.auditing.target import AuditTarget
from litmus.model import Decoder
from litmus.runtime.device import seeded

ROWS, ROW_TOKENS, SYMBOLS = 4, 12, 8
MAX_STEPS, MAX_STEPS_WHEN_NEAR = 250, 750
"""Steps for every model, and for one that is near, as one whose branches begin with a gate of zero may be."""
LR_TIMES_WIDTH = 0.25
"""Learning rate times width, so that one step changes activations equally at any width."""
MAX_NATS, NEAR_NATS = 0.23, 0.4
"""Nats per token at which the batch counts as learned, and as nearly learned: a typical token then has probability
0.79. Position and the token before it, without any context, are worth 0.26 nats: of 4 rows some share both."""


POST_STEP_HOOKS = 1000
"""Calls of `post_optimizer_step` after training, so that what such a hook changes slowly has changed by then."""


@dataclass
class Learned:
    """A model trained on one batch: its loss there in nats per token, the steps, and the learning rate."""

    model: Any
    loss: float
    steps: int
    rate: float


@needs("loss", "weights")
def gather(target: AuditTarget) -> Iterator[Evidence]:
    attempts = learned(target)
    best = min(attempts, key=lambda attempt: math.inf if math.isnan(attempt.loss) else attempt.loss)
    tokens = f"{ROWS} x {target.length(ROW_TOKENS)} tokens"
    if best.loss <= MAX_NATS:
        yield Evidence(
            f"overfits a batch of {tokens} in {best.steps} steps at lr {best.rate:.2g}",
            measured=best.loss,
            tolerance=MAX_NATS,
        )
        return
    tried = " and ".join(f"{attempt.rate:.2g}" for attempt in attempts)
    yield Evidence(
        f"after {best.steps} steps on one batch of {tokens} the loss is still {best.loss:.2f} nats "
        f"(lr {best.rate:.2g}; {tried} were tried)",
        fault=True,
        measured=best.loss,
        tolerance=MAX_NATS,
    )


def learned(target: AuditTarget) -> list[Learned]:
    """Training on one batch, at a second learning rate if the first does not succeed."""

    def train() -> list[Learned]:
        tokens, targets = batch(target)
        attempts: list[Learned] = []
        for rate in (LR_TIMES_WIDTH / target.width, LR_TIMES_WIDTH / target.width / 4):
            model = target.build_model(dtype=torch.float32)
            attempts.append(Learned(model, *overfit(model, tokens, targets, rate), rate))
            if attempts[-1].loss <= MAX_NATS:
                break
        return attempts

    return target.once("learned", train)


def learned_model(target: AuditTarget) -> Any:
    """The trained model in fp64 and evaluation mode, after many more post-step hooks; None if it cannot be trained."""

    def prepare() -> Any:
        try:
            model = copy.deepcopy(learned(target)[-1].model)
            if any(hasattr(type(part), "post_optimizer_step") for part in model.modules() if part is not model):
                with torch.no_grad():
                    for _ in range(POST_STEP_HOOKS):
                        model.post_optimizer_step()
        except Exception:  # the check on training itself reports it
            return None
        finite = all(p.isfinite().all() for p in model.parameters())
        model = model.to(next(target.model.parameters()).dtype).eval()
        if hasattr(target.model, "exact"):  # a foreign model, which casts inside
            model.exact = target.model.exact
        if finite and not target.lacks("cache"):
            with contextlib.suppress(Exception):  # the checks of decoding report it
                step_after_decoding(model, batch(target)[0])
        return model if finite else None

    if not target.trains or target.lacks("loss") or target.lacks("weights"):
        return None
    return target.once("learned model", prepare)


@torch.no_grad()
def step_after_decoding(model: Any, tokens: Tensor) -> None:
    """Decode a token and change all weights a little, after which nothing derived from the earlier ones may be kept."""
    cache = model.new_cache(len(tokens), 3)
    for chunk in tokens[:, :3].split([2, 1], dim=1):
        model(chunk, cache)
    for parameter in model.parameters():
        parameter.mul_(1.001)
    model.post_optimizer_step()


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


@torch.enable_grad()  # the check that needs the trained model first may have no use for gradients itself
def overfit(model: Decoder, tokens: Tensor, targets: Tensor, rate: float) -> tuple[float, int]:
    """Train on one batch; the loss on it in evaluation mode, in nats per token, and the number of steps."""
    state: dict[Parameter, list[Tensor]] = {}
    nats = math.inf
    for step in range(1, MAX_STEPS_WHEN_NEAR + 1):
        model.train()
        with seeded(step), NoDropout():
            loss = model.loss(tokens, targets).total
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update(model, state, rate * min(step / 10, 1.0, (50 / step) ** 0.5))
        model.post_optimizer_step()
        if step % 10 == 0:
            nats = float(model.eval().token_losses(tokens, targets).mean())
            if nats <= MAX_NATS or math.isnan(nats):
                break
        if step == MAX_STEPS and nats > NEAR_NATS:
            break
    return nats, step


@torch.no_grad()
def update(model: Decoder, state: dict[Parameter, list[Tensor]], rate: float) -> None:
    """One step of AdamW; `state` holds the means of gradients and of their squares, and the number of steps.

    PyTorch's function in place of its class, which imports the compiler, more than a second for every audit.
    """
    trained = [p for p in model.parameters() if p.grad is not None]
    for p in trained:
        if p not in state:
            state[p] = [torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())]
    means, squares, steps = (list(tensors) for tensors in zip(*map(state.__getitem__, trained), strict=True))
    gradients = [p.grad for p in trained]
    adamw(
        trained,  # type: ignore[arg-type]
        gradients,  # type: ignore[arg-type]
        means,
        squares,
        [],
        steps,
        amsgrad=False,
        beta1=0.9,
        beta2=0.95,
        lr=rate,
        weight_decay=0.0,
        eps=1e-8,
        maximize=False,
    )


CHECK = Check(
    name="overfits one batch",
    asserts="The model overfits one small batch within 250 steps, or 750 if it is near by then.",
    how="4 rows of 12 tokens over 8 symbols, each row beginning with a unique token, so that context is needed and "
    "suffices; AdamW at two learning rates until one succeeds; judged by token_losses in evaluation mode.",
    tolerance="0.23 nats per token: the right token has 79 %, at random 12 %. Built-in recipes need 30 to 200 steps.",
    means="It cannot use context or its gradients are wrong.",
    mark="cannot learn a single batch",
    gather=gather,
)
