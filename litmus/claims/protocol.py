"""Protocols: what is claimed, how it is tested, and what would count as confirmed or refuted, fixed before any run.

Each file of `protocols/` is a claim; `terms.yaml` there holds the terms that the experiments of a scale share. Torch is
not imported here.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litmus.errors import BadInput, first_fault, nearest, shown
from litmus.training.settings import TrainSettings
from litmus.yaml_json import mapping, parse_yaml

Scale = Literal["cpu", "gpu"]
SCALES: tuple[Scale, ...] = get_args(Scale)

TERMS = "terms"
"""The file of the terms that experiments share."""

Metric = Literal[
    "bpb",
    "nats",
    "nats_where_trained",
    "perplexity",
    "accuracy",
    "tokens_per_second",
    "seconds_to_loss",
    "peak_memory",
    "parameters",
    "parameters_active",
    "flops_per_token",
    "cache_bytes",
    "first_token_attention",
    "largest_activation",
    "audit_failed",
]
"""Quantities of a trial (`litmus.claims.trial_figures`)."""

Region = tuple[float | None, float | None]
"""A closed interval; None is an open end."""


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrialFigure(_Plain):
    """A metric of `arm` over its seeds, or its difference or ratio to that of the arm `against`, paired by seed.

    against_metric: the metric of the other arm, if it is not the same. length: of the test examples of a probe, for its
    accuracy at that length alone.
    """

    arm: str
    against: str | None = None
    metric: Metric
    against_metric: Metric | None = None
    ratio: bool = False
    length: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.against is None and (self.ratio or self.against_metric or self.metric == "seconds_to_loss"):
            raise BadInput(f"a ratio, and seconds to a loss, are between two arms; {self.arm} has no arm `against`")
        if self.length is not None and self.metric != "accuracy":
            raise BadInput(f"length is for accuracy alone, and the metric is {self.metric}")
        return self


class DecodeFigure(_Plain):
    """A cost of decoding by `strategy` relative to that by `against`, at equal prompts or at two lengths of prompt."""

    strategy: str
    against: str
    cost: Literal["first", "per_token", "total", "cache_bytes"]
    prompt: int
    against_prompt: int | None = None


class DerivedFigure(_Plain):
    """The figure `figure` minus the figure `minus`, paired by seed."""

    figure: str
    minus: str


class Compare(_Plain):
    """A comparison of arms; the first is the baseline. An arm is a recipe's name, or a recipe in place with a name.

    lr_sweep, noise, margin, primary, keep_failed: as of `litmus.compare`. overrides: keys of all arms' recipes.
    """

    kind: Literal["compare"]
    name: str
    arms: list[str | dict[str, Any]] = Field(min_length=2)
    data: dict[str, Any]
    size: str | None
    overrides: dict[str, Any] = {}
    training: dict[str, Any]
    seeds: int = Field(ge=2)
    lr_sweep: bool
    primary: str = "bpb"
    margin: float | None = None
    noise: bool = False
    keep_failed: bool = False
    figures: dict[str, TrialFigure]

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _check_arms(self)


class Probe(_Plain):
    """A probe of arms, as of `litmus probe`; figures are of the accuracy in percent."""

    kind: Literal["probe"]
    name: str
    probe: str
    arms: list[str | dict[str, Any]] = Field(min_length=1)
    size: str | None = None
    overrides: dict[str, Any] = {}
    training: dict[str, Any]
    seeds: int = Field(ge=2)
    lr_sweep: bool
    figures: dict[str, TrialFigure]

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _check_arms(self)


class Decode(_Plain):
    """Decoding of an untrained recipe by the strategies of `litmus bench decode`, timed in interleaved repeats."""

    kind: Literal["decode"]
    name: str
    recipe: str
    size: str | None = None
    prompt_tokens: list[int]
    new_tokens: int = Field(ge=2)
    repeats: int = Field(ge=2)
    figures: dict[str, DecodeFigure]


class Check(_Plain):
    """A function of `litmus.claims.checks`; figures are named after what it measures. trained: a comparison before."""

    kind: Literal["check"]
    name: str
    check: str
    options: dict[str, Any] = {}
    trained: str | None = None
    figures: dict[str, str]


class Derived(_Plain):
    """Differences between figures of the experiments before."""

    kind: Literal["derived"]
    name: str
    figures: dict[str, DerivedFigure]


Experiment = Annotated[Compare | Probe | Decode | Check | Derived, Field(discriminator="kind")]


class Criterion(_Plain):
    """What a figure's whole interval must lie in. `says`: the sentence that is thereby confirmed or refuted.

    refuted: None if no figure of this scale can refute it.
    """

    figure: str
    confirmed: Region
    refuted: Region | None
    says: str


class Claim(_Plain):
    """A claim and its protocol at one scale.

    claim: what the source says, in plain words with its numbers. published: its numbers. published_protocol: how they
    were found, where that differs from the protocol here. limits: what this scale cannot show.
    """

    number: int
    name: str
    title: str
    claim: str
    source: str
    published: str
    published_protocol: str
    hypothesis: str
    scale: Scale
    experiments: list[Experiment]
    criteria: list[Criterion] = Field(min_length=1)
    limits: str

    @property
    def sha256(self) -> str:
        """The hash of the whole protocol."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @model_validator(mode="after")
    def _check(self) -> Self:
        names: list[str] = []
        for experiment in self.experiments:
            if isinstance(experiment, Derived):
                for derived in experiment.figures.values():
                    for used in (derived.figure, derived.minus):
                        _check_known(used, names, "figure")
            if isinstance(experiment, Check) and experiment.trained is not None:
                before = [other.name for other in self.experiments if isinstance(other, Compare)]
                _check_known(experiment.trained, before, "comparison")
            for name in experiment.figures:
                if name in names:
                    raise BadInput(f"two figures are called {name!r}; each needs a name of its own")
                names.append(name)
        for criterion in self.criteria:
            _check_known(criterion.figure, names, "figure")
        return self


def arm_name(arm: str | dict[str, Any]) -> str:
    """The name of an arm: of a recipe, of a recipe in place, or of a plug-in file without its suffix."""
    return str(arm["name"]) if isinstance(arm, dict) else arm.rpartition("/")[2].removesuffix(".py")


def claim_names() -> list[str]:
    """The names of the claims, by their numbers."""
    return [name for _, name in sorted((_raw(name)["number"], name) for name in _files())]


@cache
def claim_named(name: str, scale: Scale = "cpu") -> Claim:
    """The protocol of a claim at a scale; BadInput for an unknown name."""
    if name not in _files():
        raise BadInput(f"unknown claim {shown(name)}; {nearest(name, _files())}")
    return claim_from({**_raw(name), "name": name}, _raw(TERMS), scale)


def claim_from(raw: dict[str, Any], terms: dict[str, Any], scale: Scale) -> Claim:
    """The protocol in `raw`, whose experiments take what they do not state from terms[scale][kind].

    An experiment's key "cpu" or "gpu" holds what differs at that scale.
    """
    experiments = []
    for given in raw.get("experiments", []):
        own = {key: value for key, value in given.items() if key not in SCALES}
        layers = (terms.get(scale, {}).get(own.get("kind"), {}), own, given.get(scale, {}))
        experiments.append({key: value for layer in layers for key, value in layer.items()})
        if (trainings := [layer["training"] for layer in layers if "training" in layer]) and own["kind"] != "decode":
            experiments[-1]["training"] = {key: value for one in trainings for key, value in one.items()}
    try:
        return Claim.model_validate({**raw, "scale": scale, "experiments": experiments})
    except ValidationError as error:
        raise BadInput(f"the protocol of claim {raw.get('name')!r}: {first_fault(error, Claim)}") from None


def training_of(experiment: Compare | Probe) -> TrainSettings:
    """The training options of an experiment."""
    return TrainSettings.model_validate(experiment.training)


def _check_arms(experiment: Any) -> Any:
    arms = [arm_name(arm) for arm in experiment.arms]
    for figure in experiment.figures.values():
        for arm in (figure.arm, figure.against):
            if arm is not None:
                _check_known(arm, arms, "arm")
    training_of(experiment)
    return experiment


def _check_known(name: str, known: list[str], kind: str) -> None:
    if name not in known:
        raise BadInput(f"{name!r} is no {kind} here; {nearest(name, known)}")


@cache
def _files() -> tuple[str, ...]:
    names = (path.name for path in (files("litmus.claims") / "protocols").iterdir())
    return tuple(sorted(name[:-5] for name in names if name.endswith(".yaml") and name != f"{TERMS}.yaml"))


@cache
def _raw(name: str) -> dict[str, Any]:
    text = (files("litmus.claims") / "protocols" / f"{name}.yaml").read_bytes()
    return mapping(parse_yaml(text, f"{name}.yaml"), name)
