"""Determinism: the same seed gives the same model, a saved model comes back, and evaluation throws no dice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from litmus.auditing.check import Check, Evidence
from litmus.auditing.hooks import training_loss
from litmus.auditing.target import AuditTarget
from litmus.model import Decoder, load, save


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from seeded(target)
    yield from evaluated(target)
    yield from stored(target)


def seeded(target: AuditTarget) -> Iterator[Evidence]:
    """Building twice from one seed gives one model; the training loss repeats under one seed."""
    if target.live is None:
        one, same, other = (dict(target.build_model(seed).named_parameters()) for seed in (0, 0, 1))
        changed = [name for name in one if not torch.equal(one[name], same[name])]
        if changed:
            yield Evidence(
                f"two models built from the same seed differ in {len(changed)} of {len(one)} parameters",
                fault=True,
                where=changed[0],
                mark="is not reproducible from its seed",
            )
            return
        if all(torch.equal(one[name], other[name]) for name in one):
            yield Evidence(
                "models built from different seeds are identical: their seeds show nothing about chance",
                fault=True,
                mark="ignores its seed",
                meaning="Several seeds of it are one trial repeated; an interval over them means nothing.",
            )
            return
    tokens, targets = target.tokens(2, target.length(24), seed=70), target.tokens(2, target.length(24), seed=71)
    model = target.build_model()
    with torch.no_grad():
        first, second = (training_loss(model, tokens, targets, seed=3).total for _ in range(2))
    if not torch.equal(first, second):
        yield Evidence(
            "the training loss of the same tokens under the same seed differs from call to call",
            fault=True,
            measured=float((first - second).abs()),
            tolerance=0.0,
            where="model.loss",
            mark="is not reproducible from its seed",
        )
    else:
        yield Evidence("same seed, same weights and same loss")


def evaluated(target: AuditTarget) -> Iterator[Evidence]:
    """In evaluation mode, the same tokens get the same logits whatever the dice and whatever came before."""
    model = target.build_model(dtype=torch.float32)
    tokens = target.tokens(2, target.length(24), seed=72)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = model(tokens)
        torch.manual_seed(2)
        again = model(tokens)
        model(target.tokens(1, target.length(9), seed=73))
        model.loss(target.other_tokens(tokens), tokens)
        after = model(tokens)
    if torch.equal(first, again) and torch.equal(first, after):
        yield Evidence("evaluation mode draws nothing and keeps nothing")
        return
    drawn = not torch.equal(first, again)
    yield Evidence(
        "in evaluation mode the logits change with the random seed"
        if drawn
        else "in evaluation mode the logits change with what the model saw before",
        fault=True,
        measured=float((first - (again if drawn else after)).abs().max()),
        tolerance=0.0,
        where="model(tokens)",
        mark="gives other scores each time",
    )


def stored(target: AuditTarget) -> Iterator[Evidence]:
    """A saved and loaded model gives the same logits, bit for bit."""
    model = target.build_model(dtype=torch.float32)
    tokens = target.tokens(2, target.length(24), seed=74)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)  # what is drawn anew on loading must not happen to come out the same
        save(model, Path(folder) / "model")
        back: Decoder = load(Path(folder) / "model", trust_plugin=True).eval()  # the code that has just been run
        before, after = model(tokens), back(tokens)
    if torch.equal(before, after):
        yield Evidence("saved and loaded, the logits are the same")
        return
    yield Evidence(
        "saved and loaded, the model gives other logits: it keeps something that is no parameter or buffer",
        fault=True,
        measured=float((before - after).abs().max()),
        tolerance=0.0,
        where="litmus.save, litmus.load",
        mark="does not survive saving",
        meaning="A checkpoint is another model than the one that was scored.",
    )


CHECK = Check(
    name="determinism",
    asserts="The same seed gives the same model and loss, a saved model comes back, evaluation draws nothing.",
    how="Two builds from one seed, one from another; two losses under one seed; logits under two seeds and after other "
    "inputs; a save and a load.",
    tolerance="None: bit for bit, on one machine with one thread count.",
    means="Its results cannot be repeated, so no difference to it can be trusted.",
    mark="is not reproducible",
    gather=gather,
)
