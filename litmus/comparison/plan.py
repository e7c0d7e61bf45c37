"""What a comparison runs: arms on equal terms, all trials with role, seed and learning rate, and the sweep's choice."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from litmus.comparison.results import ComparisonResult, Role, TrialResult
from litmus.comparison.trial import METHOD, TrialSpec
from litmus.data import DataSettings
from litmus.errors import BadInput
from litmus.model import Recipe, Source, resolve
from litmus.model.plugins import import_plugin
from litmus.model.recipe import current_keys
from litmus.names import folder_safe
from litmus.training.settings import TrainSettings

INIT_SEED_OFFSET = 1_000_003
"""Added to the model seed of a trial that repeats another one from a different initialization."""

MAX_FIRST_SEED = 2**31
"""Of a comparison; leaves room below the largest seed for more pairs and other initializations."""

SWEEP_EXPONENTS = (-1, 0, 1)
"""A sweep tries the given learning rate times sqrt(10) to these powers."""


@dataclass(frozen=True)
class Plan:
    """The arms by name (the first is the baseline) and the terms they share.

    fingerprint: of the prepared token data. training: with the seed of the first trials. skipped: arms that are not
    trained. lr_sweep: choose each arm's learning rate by a sweep over `sweep_seeds` seeds.
    """

    arms: dict[str, Recipe]
    data: DataSettings
    fingerprint: str
    training: TrainSettings
    noise: bool
    lr_sweep: bool
    prompt: str
    skipped: frozenset[str] = frozenset()
    sweep_seeds: int = 1

    def __post_init__(self) -> None:
        if self.training.seed > MAX_FIRST_SEED:
            raise BadInput(
                f"seed = {self.training.seed} is too large for a comparison; valid are 0 to {MAX_FIRST_SEED:,}"
            )

    @property
    def baseline(self) -> str:
        return next(iter(self.arms))

    def content(self) -> dict[str, Any]:
        """What identifies a comparison, as plain data; seeds, noise trials and judging may differ."""
        content: dict[str, Any] = {
            "arms": {name: recipe.to_dict() for name, recipe in self.arms.items()},
            "data": self.data.model_dump(mode="json"),
            "data_fingerprint": self.fingerprint,
            "training": self.training.model_dump(mode="json"),
            "lr_sweep": self.lr_sweep,
            "prompt": self.prompt,
            "method": METHOD,
        }
        if self.lr_sweep:
            content["sweep_budget"] = "whole"  # version 0.1.0 took a quarter of it
        return content if self.sweep_seeds == 1 else {**content, "sweep_seeds": self.sweep_seeds}

    @property
    def identity(self) -> str:
        """Eight hex digits of the hash of `content()`, so that a repeated command finds its folder."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:8]

    def trials(
        self, rates: Mapping[str, float], seeds: Iterable[int], undecided: Collection[str] | None = None
    ) -> list[TrialSpec]:
        """The trials to be judged, ordered by seed, so that an interrupted comparison has complete pairs.

        undecided: the arms to train with the baseline; None for all.
        """
        specs = []
        for seed in seeds:
            arms = [arm for arm in self._trained if undecided is None or arm in (self.baseline, *undecided)]
            specs += [self._spec(arm, "arm", seed, rates[arm]) for arm in arms]
            if self.noise:
                specs.append(self._spec(self.baseline, "noise", seed, rates[self.baseline]))
        return specs

    def sweep(self) -> list[TrialSpec]:
        """The trials that choose each arm's learning rate: three rates, each on `sweep_seeds` seeds.

        Each trains for the whole budget: on a part of it a rate wins that is too high for the whole, and many probes
        are learned late.
        """
        if not self.lr_sweep:
            return []
        rates = [self.training.lr * math.sqrt(10) ** exponent for exponent in SWEEP_EXPONENTS]
        seeds = range(self.sweep_seeds)
        return [self._spec(arm, "sweep", seed, rate) for arm in self._trained for seed in seeds for rate in rates]

    @property
    def _trained(self) -> list[str]:
        return [arm for arm in self.arms if arm not in self.skipped]

    def _spec(self, arm: str, role: Role, seed: int, lr: float) -> TrialSpec:
        seed += self.training.seed
        init = 1 if role == "noise" else self._copy_number(arm)
        changes: dict[str, Any] = {"seed": seed + init * INIT_SEED_OFFSET, "data_seed": seed, "lr": lr}
        return TrialSpec(
            arm=arm,
            role=role,
            recipe=self.arms[arm].to_dict(),
            data=self.data,
            data_fingerprint=self.fingerprint,
            training=self.training.model_copy(update=changes),
            prompt=self.prompt,
            method=METHOD,
        )

    def _copy_number(self, arm: str) -> int:
        """0 for the first arm of an architecture; 2, 3, ... for copies of it (1 is used by the noise trials)."""
        same = [name for name, recipe in self.arms.items() if _architecture(recipe) == _architecture(self.arms[arm])]
        number = same.index(arm)
        return number + 1 if number else 0


def resolve_arms(
    sources: Sequence[Source],
    *,
    size: str | None,
    context: int,
    overrides: Mapping[str, Any],
    vocab_size: int | None = None,
    trust_plugin: bool = False,
    least: int = 2,
) -> dict[str, Recipe]:
    """Each arm's recipe at the same size, context and vocabulary; an arm given twice gets a number."""
    if len(sources) < least:
        needed = "a baseline and at least one more" if least > 1 else "one or more, such as standard"
        raise BadInput(f"{len(sources) or 'no'} arm was given; a comparison needs {needed}")
    for key, option in {"context": "--context N", "vocab_size": "--tokenizer bpe-N"}.items():
        if key in overrides:
            raise BadInput(f"--set {key}={overrides[key]!r}: all arms have the same {key}; give it as {option}")
    for file in (Path(source) for source in sources if isinstance(source, str | Path)):
        if file.suffix == ".py":
            import_plugin(file)  # an earlier arm's recipe file may be based on this plug-in
    arms: dict[str, Recipe] = {}
    changes = {**overrides, "context": context}
    for source in sources:
        recipe = resolve(source, size=size, vocab_size=vocab_size, overrides=changes, trust_plugin=trust_plugin)
        name, number = recipe.name, 2
        while name in arms:
            name, number = f"{recipe.name}-{number}", number + 1
        arms[name] = recipe
    return arms


def folder_prefix(plan: Plan) -> str:
    """The default name of the comparison's folder, to which the plan's identity is appended."""
    return folder_safe("-vs-".join(plan.arms)[:60].strip())


def current_content(kept: dict[str, Any]) -> dict[str, Any]:
    """The content of a stored plan with the keys of this version; parts that cannot be read stay as they are."""
    content = {"method": 1, **kept}
    try:
        content["arms"] = {name: current_keys(recipe) for name, recipe in kept["arms"].items()}
        content["data"] = DataSettings.model_validate(kept["data"]).model_dump(mode="json")
        content["training"] = TrainSettings.model_validate(kept["training"]).model_dump(mode="json")
    except (KeyError, AttributeError, ValueError):  # damaged, or of another version
        pass
    return content


@dataclass(frozen=True)
class LearningRateChoice:
    """An arm's best learning rate; None if every trial of the sweep failed.

    tried: each rate's mean bits per byte, None if a trial failed. at_edge: the best rate is the smallest or largest
    tried, so a better one may lie outside the grid. noise: the standard deviation (n - 1) over seeds at each rate that
    was tried with several.
    """

    arm: str
    lr: float | None
    at_edge: bool
    tried: dict[float, float | None]
    noise: dict[float, float] = field(default_factory=dict)


def choose_learning_rate(arm: str, trials: Sequence[TrialResult]) -> LearningRateChoice:
    """The rate with the lowest mean bits per byte in the arm's sweep; a rate with a failed trial is excluded."""
    by_rate: dict[float, list[TrialResult]] = defaultdict(list)
    for trial in trials:
        if trial.arm == arm and trial.role == "sweep":
            by_rate[trial.lr].append(trial)
    tried: dict[float, float | None] = {}
    noise: dict[float, float] = {}
    for lr, group in sorted(by_rate.items()):
        failed = any(trial.failed is not None for trial in group)
        tried[lr] = None if failed else fmean(trial.bits_per_byte for trial in group)
        if len(group) > 1 and not failed:
            noise[lr] = stdev(trial.bits_per_byte for trial in group)
    scores = {lr: score for lr, score in tried.items() if score is not None}
    if not scores:
        return LearningRateChoice(arm, None, False, tried, noise)
    best = min(scores, key=lambda lr: scores[lr])
    return LearningRateChoice(arm, best, best in (min(tried), max(tried)), tried, noise)


def learning_rate_choices(result: ComparisonResult) -> list[LearningRateChoice]:
    """The choice of every arm that was swept and has no note."""
    swept = [arm for arm in result.arms if result.trials_of(arm, "sweep") and arm not in result.arm_notes]
    return [choose_learning_rate(arm, result.trials) for arm in swept]


def _architecture(recipe: Recipe) -> dict[str, Any]:
    """What two arms have in common if they are the same: the recipe and the content of its plug-in file."""
    keys = {key: value for key, value in recipe.to_dict().items() if key not in ("name", "about")}
    return keys if recipe.plugin is None else {**keys, "plugin": recipe.plugin.sha256}
