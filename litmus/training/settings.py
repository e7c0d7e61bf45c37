"""The options of a training, each documented where it is declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from litmus.bounds import MAX_INT, MAX_SEED, Bounded
from litmus.errors import BadInput, first_fault, nearest, shown
from litmus.training.budget import Budget


class TrainSettings(Bounded):
    """How a model is trained; two trainings with equal settings, recipe and data are the same training."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    budget: str = "500 steps"
    """When to stop: steps, tokens, seconds of training or FLOPs, as in '300 steps', '2M tokens', '5min', '1 PFLOP'."""

    batch: int = Field(16, ge=1, le=MAX_INT)
    """Sequences in one forward pass."""

    accumulation: int = Field(1, ge=1, le=MAX_INT)
    """Forward passes that make one step of batch · accumulation sequences; its loss is the mean over all they score."""

    context: int | None = Field(None, ge=1, le=MAX_INT)
    """Tokens in one sequence; the recipe's context when not given."""

    stride: int | None = Field(None, ge=1, le=MAX_INT)
    """Distance between the starts of training windows; equal to the context when not given, smaller slides."""

    isolate_documents: bool = False
    """Whether documents packed into one sequence are kept from seeing each other."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for everything, or Muon for the matrices inside layers, of experts too, and AdamW for the rest."""

    lr: float = Field(3e-3, gt=0, le=1000)
    """Peak learning rate. 3e-3 suits models of a few million parameters; take about 6e-4 at 100 million."""

    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay of matrices; one-dimensional parameters are never decayed."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averaging of gradients and of their squares, each at least 0 and below 1."""

    clip: float | None = Field(1.0, gt=0)
    """Largest gradient norm; a larger gradient is scaled down to it. Null turns clipping off."""

    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate falls after the warmup; wsd is warmup, stable, decay."""

    warmup: float = Field(0.05, ge=0, lt=1)
    """Fraction of the budget over which the learning rate rises linearly from 0."""

    warmup_steps: int | None = Field(None, ge=1, le=MAX_INT)
    """Steps of that rise, in place of the fraction; the budget must be in steps."""

    decay: float = Field(0.2, gt=0, le=1)
    """Fraction of the budget over which wsd decays at the end; the other schedules do not use it."""

    final_lr: float = Field(0.1, ge=0, le=1)
    """Learning rate at the end of the budget, as a fraction of the peak."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Fraction of the training target spread over the whole vocabulary; validation is never smoothed."""

    precision: Literal["auto", "fp32", "medium", "bf16-autocast", "bf16"] = "auto"
    """Number formats of weights and matrix products (docs/training.md); auto takes the fastest for the device."""

    compile: bool = False
    """Whether the training loss is compiled with torch.compile; the first step then takes much longer."""

    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of the starting weights and of dropout."""

    data_seed: int | None = Field(None, ge=0, le=MAX_SEED)
    """Seed of the data order; equal to `seed` when not given, so that arms with one seed see the same batches."""

    validate_every: int | None = Field(None, ge=1, le=MAX_INT)
    """Steps between validations; ten times over the budget when not given."""

    validate_tokens: int | None = Field(16_384, ge=1, le=MAX_INT)
    """Held-out tokens scored at each validation, always the same ones; null takes them all."""

    patience: int | None = Field(None, ge=1, le=MAX_INT)
    """Validations without a lower loss after which the training stops before its budget; null never does."""

    evaluate_tokens: int | None = Field(None, ge=1, le=MAX_INT)
    """Held-out tokens scored in the final evaluation; all of them when not given."""

    sample_every: int | None = Field(None, ge=1, le=MAX_INT)
    """Steps between text samples; one sample at the end when not given."""

    checkpoint_every: Annotated[int, Field(ge=0, le=MAX_INT)] | Literal["epoch"] | None = None
    """Steps between checkpoints, or epoch: after each pass over the data, with a validation. After each validation when
    not given; 0 leaves it to `checkpoint_minutes`."""

    checkpoint_minutes: float | None = Field(3.0, gt=0)
    """Minutes after which a further checkpoint is written, whatever the steps; null turns that off."""

    keep_last: int = Field(2, ge=1, le=MAX_INT)
    """Number of newest checkpoints to keep; the one with the lowest validation loss is kept too."""

    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, ...; auto takes a CUDA device when there is one."""

    threads: int | None = Field(None, ge=1, le=4096)
    """CPU threads; PyTorch's own choice when not given."""

    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Where metrics go besides metrics.jsonl; each needs the extra of its name."""

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, text: str) -> str:
        Budget.parse(text)
        return text

    @field_validator("betas")
    @classmethod
    def _check_betas(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be at least 0 and below 1, found {betas}")
        return betas

    @field_validator("checkpoint_every", mode="wrap")
    @classmethod
    def _check_checkpoint_every(cls, every: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(every)
        except ValidationError:
            raise ValueError(f"{shown(every)} is not valid; a number of steps, 0 or more, or epoch is") from None

    @model_validator(mode="after")
    def _check_warmup_steps(self) -> Self:
        if self.warmup_steps is not None and Budget.parse(self.budget).unit != "steps":
            raise ValueError(f"warmup_steps needs a budget in steps, and it is {self.budget}; set warmup instead")
        return self

    @property
    def warmup_fraction(self) -> float:
        """The fraction of the budget over which the learning rate rises."""
        if self.warmup_steps is None:
            return self.warmup
        return min(self.warmup_steps / Budget.parse(self.budget).amount, 0.99)

    @property
    def order_seed(self) -> int:
        """The seed of the data order."""
        return self.seed if self.data_seed is None else self.data_seed


class Preset(NamedTuple):
    """Settings of a training, of the recipe and of threads that belong together; what a user gives comes before."""

    training: dict[str, Any]
    recipe: dict[str, Any]
    chat: dict[str, Any]

    def training_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its options of the training and the given ones, which may have a budget of time or another warmup.

        Steps of warmup are then left out: the given fraction counts, or the one that they are of the preset's budget.
        """
        options = {**self.training, **given}
        if "warmup_steps" not in self.training or "warmup_steps" in given:
            return options
        if "warmup" in given or Budget.parse(str(options["budget"])).unit != "steps":
            del options["warmup_steps"]
            options.setdefault("warmup", settings_from(self.training).warmup_fraction)
        return options


def _roleplay(context: int, target: int, **training: Any) -> Preset:
    """The mini_deepseek report's training with another length of windows, of which `target` tokens are trained on."""
    report = {
        "optimizer": "adamw", "betas": (0.9, 0.95), "weight_decay": 0.01, "lr": 1e-4, "clip": 1.0, "schedule": "cosine",
        "warmup_steps": 1000, "budget": "20000 steps", "batch": 8, "accumulation": 4, "precision": "bf16",
        "checkpoint_every": "epoch",
    }  # fmt: skip
    chat = {"max_tokens": context, "max_target": target}
    return Preset({**report, "context": context, **training}, {"context": context}, chat)


PRESETS = {
    "roleplay": _roleplay(3076 + 512, 512),
    "roleplay-1k": _roleplay(1024, 256),
    "roleplay-lab": _roleplay(
        512,
        128,
        precision="auto",
        accumulation=1,
        lr=1e-3,
        warmup_steps=100,
        budget="2000 steps",
        checkpoint_every=None,
    ),
}
"""The report's training of RolePlayTransformer (lengths 3076 and 512), and smaller ones; the last is for CPUs. The
report's terms of the loss, 0.1 MTP and 0.01 balance, are those of the recipe `roleplay`."""


def preset_named(name: str | None) -> Preset:
    """The preset of a name, an empty one for None; BadInput names the valid ones."""
    if name is None:
        return Preset({}, {}, {})
    if name not in PRESETS:
        raise BadInput(f"--preset {shown(name)} is unknown; {nearest(name, PRESETS)}")
    return PRESETS[name]


def settings_from(options: Mapping[str, Any]) -> TrainSettings:
    """TrainSettings of these options; BadInput names the first one that is unknown or out of range."""
    try:
        return TrainSettings.model_validate(options)
    except ValidationError as error:
        raise BadInput(f"training option {first_fault(error, TrainSettings)}") from None
