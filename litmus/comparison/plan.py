"""What a comparison will run: its arms on equal terms, and every trial with its role, seed and learning rate."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litmus.comparison.results import Role
from litmus.comparison.trial import TrialSpec
from litmus.data import DataSettings
from litmus.errors import BadInput
from litmus.model import Recipe, Source, resolve
from litmus.model.plugins import import_plugin
from litmus.names import folder_safe
from litmus.training import Budget, TrainSettings

NEW_INIT = 1_000_003
"""Added to the seed of a model that is trained again on the same data order, so that only its start differs."""

SWEEP_STEPS = (-1, 0, 1)
"""The learning rates a sweep tries, as powers of sqrt(10) around the one given."""

SWEEP_SHARE = 0.25
"""The share of the budget that each trial of a sweep gets."""


@dataclass(frozen=True)
class Plan:
    """Arms by name in order (the first is the baseline), the terms they share, and which of them are not trained.

    fingerprint: of the token data that `data` stood for when the comparison was planned; a corpus that changes makes
    another plan. lr_sweep: whether each arm's learning rate is chosen by trials of its own.
    """

    arms: dict[str, Recipe]
    data: DataSettings
    fingerprint: str
    training: TrainSettings
    seeds: int
    noise: bool
    lr_sweep: bool
    prompt: str
    skipped: frozenset[str] = frozenset()

    @property
    def baseline(self) -> str:
        return next(iter(self.arms))

    def content(self) -> dict[str, Any]:
        """What makes two comparisons the same, as plain data; seeds, noise trials and judging may differ."""
        return {
            "arms": {name: recipe.to_dict() for name, recipe in self.arms.items()},
            "data": self.data.model_dump(mode="json"),
            "data_fingerprint": self.fingerprint,
            "training": self.training.model_dump(mode="json"),
            "lr_sweep": self.lr_sweep,
            "prompt": self.prompt,
        }

    @property
    def identity(self) -> str:
        """Eight hex digits that are the same for the same plan: a repeated command finds its own folder."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:8]

    def trials(self, rates: Mapping[str, float]) -> list[TrialSpec]:
        """The trials to be judged, seed by seed so that an interrupted comparison has whole pairs first."""
        specs = []
        for seed in range(self.seeds):
            specs += [self._spec(arm, "arm", seed, rates[arm]) for arm in self._trained]
            if self.noise:
                specs.append(self._spec(self.baseline, "noise", seed, rates[self.baseline]))
        return specs

    def sweep(self) -> list[TrialSpec]:
        """The trials that choose each arm's learning rate: one seed, a quarter of the budget, three rates."""
        if not self.lr_sweep:
            return []
        rates = [self.training.lr * math.sqrt(10) ** step for step in SWEEP_STEPS]
        return [self._spec(arm, "sweep", 0, rate) for arm in self._trained for rate in rates]

    @property
    def _trained(self) -> list[str]:
        return [arm for arm in self.arms if arm not in self.skipped]

    def _spec(self, arm: str, role: Role, seed: int, lr: float) -> TrialSpec:
        init = 1 if role == "noise" else self._repeats(arm)
        changes: dict[str, Any] = {"seed": seed + init * NEW_INIT, "data_seed": seed, "lr": lr}
        if role == "sweep":
            budget = Budget.parse(self.training.budget)
            changes["budget"] = f"{math.ceil(budget.amount * SWEEP_SHARE)} {budget.unit}"
        return TrialSpec(
            arm=arm,
            role=role,
            recipe=self.arms[arm].to_dict(),
            data=self.data,
            data_fingerprint=self.fingerprint,
            training=self.training.model_copy(update=changes),
            prompt=self.prompt,
        )

    def _repeats(self, arm: str) -> int:
        """0 for an architecture's first arm; 2, 3, ... when it is compared with itself (1 is the noise trial)."""
        same = [name for name, recipe in self.arms.items() if _architecture(recipe) == _architecture(self.arms[arm])]
        number = same.index(arm)
        return number + 1 if number else 0


def arms_on_equal_terms(
    sources: Sequence[Source],
    *,
    size: str | None,
    context: int,
    overrides: Mapping[str, Any],
    vocab_size: int | None = None,
    trust_plugin: bool = False,
) -> dict[str, Recipe]:
    """Each arm's recipe at the same size, context and vocabulary; an arm named twice gets a number."""
    if len(sources) < 2:
        raise BadInput(f"{len(sources)} arm was given; a comparison needs a baseline and at least one more")
    for key, option in {"context": "--context N", "vocab_size": "--tokenizer bpe-N"}.items():
        if key in overrides:
            raise BadInput(f"--set {key}={overrides[key]!r}: all arms have the same {key}; give it as {option}")
    for file in (Path(source) for source in sources if isinstance(source, str | Path)):
        if file.suffix == ".py":
            import_plugin(file)  # a recipe file may be based on one that is named after it
    arms: dict[str, Recipe] = {}
    changes = {**overrides, "context": context}
    for source in sources:
        recipe = resolve(source, size=size, vocab_size=vocab_size, overrides=changes, trust_plugin=trust_plugin)
        name, number = recipe.name, 2
        while name in arms:
            name, number = f"{recipe.name}-{number}", number + 1
        arms[name] = recipe
    return arms


def folder_name(plan: Plan) -> str:
    """A name for the comparison's folder that the same plan always gets."""
    return f"{folder_safe('-vs-'.join(plan.arms)[:60].strip())}-{plan.identity}"


def _architecture(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.to_dict().items() if key not in ("name", "about")}
