"""Forward pass: the model builds and its logits are finite and of the right shape; all other checks need that."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from litmus.auditing.check import Check, Evidence, plural
from litmus.auditing.hooks import training_loss
from litmus.auditing.target import AuditTarget


def gather(target: AuditTarget) -> Iterator[Evidence]:
    for batch, length in ((1, 1), (2, target.length(7)), (1, min(target.context, 300))):
        tokens = target.tokens(batch, length)
        expected = (batch, length, target.vocab_size)
        with torch.no_grad():
            for model, weights in ((target.unperturbed, ""), (target.model, ", with perturbed weights")):
                logits = model(tokens)
                shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
                if shape != expected:
                    yield fault(
                        f"model(tokens) returns {shape} for tokens {tuple(tokens.shape)}, not {expected}",
                        "gives logits of the wrong shape",
                    )
                    return
                if not logits.isfinite().all():
                    position = int((~logits.isfinite()).any(-1).any(0).nonzero()[0])
                    yield fault(
                        f"model(tokens) returns NaN or infinite logits for {length} random tokens{weights}",
                        "gives logits that are not finite",
                        f"position {position}",
                    )
                    return
    if target.lacks("loss"):
        yield Evidence("finite logits of shape (B, T, V)")
        return
    loss = training_loss(target.build_model(), tokens, tokens, seed=0).total
    if loss.shape != () or not loss.isfinite():
        yield fault(
            f"model.loss returns {loss.tolist()} for {plural(length, 'token')}, not one finite number",
            "gives a loss that is not finite",
        )
        return
    yield Evidence("finite logits of shape (B, T, V), a finite loss")


def fault(what: str, mark: str, where: str = "") -> Evidence:
    return Evidence(what, fault=True, mark=mark, where=where)


CHECK = Check(
    name="forward pass",
    asserts="The model builds, model(tokens) is finite and of shape (batch, time, vocabulary), and its loss is finite.",
    how="One token, a small batch, and one sequence as long as the context (up to 300 tokens).",
    tolerance="None.",
    means="It can be neither audited nor scored; the other checks were skipped.",
    mark="has no working forward pass",
    gather=gather,
)
