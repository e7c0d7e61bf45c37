"""Determinism: the same seed gives the same model and loss, evaluation is deterministic, saving preserves the model."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.check import Check, Evidence, needs, plural
from litmus.auditing.hooks import training_loss
from litmus.auditing.modes import NoDropout
from litmus.auditing.target import AuditTarget
from litmus.model import Decoder, load, save
from litmus.runtime.device import seeded


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from same_seed(target)
    yield from layers_differ(target)
    yield from same_loss(target)
    yield from evaluation_deterministic(target)
    yield from training_ignores_evaluation(target)
    yield from survives_saving(target)


@needs("recipe")
def same_seed(target: AuditTarget) -> Iterator[Evidence]:
    """The same seed gives the same weights, another seed gives other weights."""
    if not target.live:
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
                "models built from different seeds are identical",
                fault=True,
                mark="ignores its seed",
                meaning="Several seeds repeat one trial; an interval over them means nothing.",
            )
            return
        yield from seeds_differ(one, other)


MIN_RANDOM_ELEMENTS = 64


def seeds_differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> Iterator[Evidence]:
    """Every parameter that looks random differs between seeds."""
    fixed = [name for name, p in one.items() if torch.equal(p, other[name]) and looks_random(p)]
    if fixed:
        yield Evidence(
            f"{plural(len(fixed), 'parameter')} of {len(one)} are random, and the same for every seed: {fixed[0]}",
            fault=True,
            where=fixed[0],
            mark="ignores its seed",
            meaning="Several seeds repeat one draw of these weights, and an interval over them is too narrow.",
        )


@needs("weights")
def layers_differ(target: AuditTarget) -> Iterator[Evidence]:
    """Every parameter that looks random differs from the same one of other layers."""
    seen: dict[tuple[object, ...], tuple[str, Tensor]] = {}
    for name, parameter in target.unperturbed.named_parameters():
        beginning = parameter.detach().flatten()[:MIN_RANDOM_ELEMENTS].tolist()
        key = (re.sub(r"\d+", "*", name, count=1), parameter.shape, *beginning)
        earlier, values = seen.setdefault(key, (name, parameter))
        if earlier != name and torch.equal(values, parameter) and looks_random(parameter):
            yield Evidence(
                f"{name} starts with the same random numbers as {earlier}",
                fault=True,
                where=name,
                mark="starts with equal layers",
                meaning="Layers that start alike learn alike: the model is a narrower one for a part of training.",
            )
            return


def looks_random(parameter: Tensor) -> bool:
    """Whether the elements are all different and unrelated to their neighbours: no constants and no smooth table."""
    values = parameter.detach().double()
    if values.numel() < MIN_RANDOM_ELEMENTS or values.flatten().unique().numel() < 0.9 * values.numel():
        return False
    centred = values - values.mean()
    related = [
        (centred.narrow(d, 1, n - 1) * centred.narrow(d, 0, n - 1)).mean() / centred.square().mean()
        for d, n in enumerate(values.shape)
        if n > 1
    ]
    return all(abs(float(correlation)) < 0.3 for correlation in related)


@needs("loss")
def same_loss(target: AuditTarget) -> Iterator[Evidence]:
    """The same seed gives the same training loss."""
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
        weights = "" if target.lacks("recipe") else "same weights and "
        yield Evidence(f"same seed, {weights}same loss")


def evaluation_deterministic(target: AuditTarget) -> Iterator[Evidence]:
    """In evaluation mode, logits depend neither on the random seed nor on earlier inputs."""
    model = target.build_model(dtype=torch.float32)
    tokens = target.tokens(2, target.length(24), seed=72)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = model(tokens)
        torch.manual_seed(2)
        again = model(tokens)
        model(target.tokens(1, target.length(9), seed=73))
        if not target.lacks("loss"):
            model.loss(target.other_tokens(tokens), tokens)
        after = model(tokens)
    if torch.equal(first, again) and torch.equal(first, after):
        yield Evidence("evaluation is deterministic and keeps no state")
        return
    random = not torch.equal(first, again)
    yield Evidence(
        "in evaluation mode the logits depend on the random seed"
        if random
        else "in evaluation mode the logits depend on earlier inputs",
        fault=True,
        measured=float((first - (again if random else after)).abs().max()),
        tolerance=0.0,
        where="model(tokens)",
        mark="gives other scores each time",
    )


@needs("loss", "weights")
def training_ignores_evaluation(target: AuditTarget) -> Iterator[Evidence]:
    """What a training step leaves in parameters and saved buffers does not depend on evaluations before it."""
    tokens, targets = target.tokens(2, target.length(24), seed=75), target.tokens(2, target.length(24), seed=76)
    left = []
    for evaluations in (0, 3):
        model = target.build_model().eval()
        with torch.no_grad():
            for _ in range(evaluations):  # of a text of one token, unlike any batch
                model(tokens[:, :1].expand_as(tokens).contiguous())
        with seeded(5), NoDropout(), torch.no_grad():
            model.train().loss(tokens, targets)
        model.post_optimizer_step()
        left.append(model.state_dict())
    changed = [name for name, value in left[0].items() if not torch.equal(value, left[1][name])]
    if changed:
        yield Evidence(
            f"after evaluations a training step leaves other values in {changed[0]}",
            fault=True,
            where=changed[0].removeprefix("module."),
            mark="trains otherwise when it is evaluated",
            meaning="How often a training is validated then changes its result.",
        )


STEPS_AROUND_SAVING = 3
"""Calls of `post_optimizer_step` before a model is saved, and after it was loaded."""


@needs("recipe")
def survives_saving(target: DecoderTarget) -> Iterator[Evidence]:
    """A saved and loaded model computes the same logits, bit for bit, and goes on as the other after a step."""
    model = target.build_model(dtype=torch.float32)
    tokens = target.tokens(2, target.length(24), seed=74)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)  # state that is initialized again on loading must not be equal by chance
        after_steps(model)
        save(model, Path(folder) / "model")
        loaded: Decoder = load(
            Path(folder) / "model", trust_plugin=True
        ).eval()  # its code runs in this process already
        differences = [
            ("", float((model(tokens) - loaded(tokens)).abs().max())),
            ("after further steps ", float((after_steps(model)(tokens) - after_steps(loaded)(tokens)).abs().max())),
        ]
    when, measured = next((found for found in differences if found[1] != 0), ("", 0.0))
    if measured == 0:
        yield Evidence("a saved and loaded model has the same logits, after further steps too")
        return
    yield Evidence(
        f"a saved and loaded model has {when}other logits: it has state that is neither parameter nor buffer",
        fault=True,
        measured=measured,
        tolerance=0.0,
        where="litmus.save, litmus.load",
        mark="does not survive saving",
        meaning="A checkpoint is another model than the one that was scored or trained.",
    )


def after_steps(model: Decoder) -> Decoder:
    """The model after its hooks were called as after a few training steps."""
    for _ in range(STEPS_AROUND_SAVING):
        model.post_optimizer_step()
    return model


CHECK = Check(
    name="determinism",
    asserts="The same seed gives the same model and loss, saving preserves the model, evaluation is deterministic.",
    how="Two builds from one seed, one from another, and equal random parameters in several layers; two losses under "
    "one seed; logits under two seeds and after other inputs; a training step with evaluations before it and without; "
    "a save and a load, and steps after it.",
    tolerance="None: bit for bit, on one machine with one thread count.",
    means="Its results cannot be repeated, so no comparison with it can be trusted.",
    mark="is not reproducible",
    gather=gather,
)
