"""The training loop."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from litmus.data import DataSettings, Sampler, TokenData, prepare
from litmus.data.windows import check_one_window
from litmus.errors import BadInput, Failed
from litmus.files import write_atomically
from litmus.locks import folder_lock
from litmus.model import Decoder, Recipe, Source, build, cache_bytes_per_token, resolve, training_flops_per_token
from litmus.model.bounds import check_trained
from litmus.model.plugins import plugin_faults, staying
from litmus.model.storage import load_weights, weights
from litmus.runtime.device import reproducible
from litmus.runtime.memory import peak_memory_bytes
from litmus.runtime.precision import DESCRIPTIONS, autocast, matmul_precision
from litmus.training.budget import Budget, Spent
from litmus.training.checkpoints import State, forget_after, newest_checkpoint, prune, save_checkpoint
from litmus.training.evaluation import Evaluation, check_scorable, evaluate
from litmus.training.interrupts import Interrupted, StopRequest, stop_requests
from litmus.training.metrics import Metrics
from litmus.training.opening import began, open_run
from litmus.training.progress import Display, Status
from litmus.training.result import RESULT, RunResult, curve, read_result
from litmus.training.run import CHECKPOINTS, METRICS, Description, LoadedRun, describe
from litmus.training.schedule import lr_factor
from litmus.training.settings import TrainSettings
from litmus.training.step import NotFinite, Stepper, seed_for
from litmus.training.trackers import Tracker, open_trackers

VALIDATIONS = 10
"""Over a budget, where the settings do not say how often."""

WriteText = Callable[[Decoder, Any], str]
"""(model, tokenizer) -> a text the model wrote, to show how far it has come."""

Gate = Callable[[Recipe, Path], None]
"""(resolved recipe, run folder) -> None before the first step; what it raises stops the training."""


class TrainingDiverged(Failed):
    """The loss or a gradient was not finite; the message names the step, the batch and the largest gradient."""


def train(
    recipe: Source,
    data_settings: DataSettings,
    settings: TrainSettings,
    folder: str | Path,
    *,
    start: LoadedRun | None = None,
    resume: bool = True,
    gate: Gate | None = None,
    sample: WriteText | None = None,
    display: Display | None = None,
    trust_plugin: bool = False,
) -> RunResult:
    """Train `recipe` in the run folder `folder` until the budget is spent; go on where an earlier call was stopped.

    With `start` training begins at the weights of that run, and `recipe` must be its own. A finished run is not trained
    again, unless `settings` has a larger budget. `gate` is called when the folder is this training's own, before the
    first step. `trust_plugin` runs code that a recipe file names even if the user has never named it. Raises BadInput
    when the folder belongs to another training or another process is in it, Failed when a plug-in's code fails,
    TrainingDiverged when a loss or gradient is not finite, Interrupted after SIGINT, SIGTERM or SIGHUP.
    """
    display = display or Display()
    check_trained(resolve(recipe, trust_plugin=trust_plugin), settings.batch, settings.context)
    data = prepare(data_settings, announce=display.note)
    vocabulary = data.tokenizer.vocab_size if start is None else None
    whole = resolve(recipe, vocab_size=vocabulary, trust_plugin=trust_plugin)
    if data.tokenizer.vocab_size > whole.vocab_size:
        raise BadInput(
            f"the tokenizer {data_settings.tokenizer!r} has {data.tokenizer.vocab_size} tokens and the model takes "
            f"{whole.vocab_size}; train from a run whose tokenizer has no more tokens than its model"
        )
    new = describe(whole, data, data_settings, settings, start)
    check_one_window(data.train, new.resolved.context, "train")
    check_scorable(data, new.resolved.context, (settings.validate_tokens, settings.evaluate_tokens))
    folder = Path(folder)
    with folder_lock(folder, "training in"):
        description = open_run(folder, new, whole, data.tokenizer, resume=resume, announce=display.note)
        if gate is not None:
            gate(whole, folder)
        if (finished := _finished(folder, description)) is not None:
            display.note(f"{folder} is already trained: {description.training.budget} are spent; nothing to do")
            return finished
        with reproducible(description.resolved.threads):
            model = build(whole, seed=settings.seed) if start is None else start.model
            with plugin_faults(whole, "training"):
                return Training(model, data, description, folder, sample, display).run()


def _finished(folder: Path, description: Description) -> RunResult | None:
    """The result of a run whose whole budget is spent; that of a smaller budget, before it was extended, is none."""
    result = read_result(folder)
    if result is None:
        return None
    spent = Spent(result.steps, result.tokens, result.train_seconds, result.tokens * result.flops_per_token)
    return result if Budget.parse(description.training.budget).share(spent) >= 1 else None


class Training:
    """A training under way: what it works with, and what it has spent."""

    def __init__(
        self,
        model: Decoder,
        data: TokenData,
        description: Description,
        folder: Path,
        write_text: WriteText | None,
        display: Display,
    ) -> None:
        """Take up a new model, or bring it back to where the newest whole checkpoint was."""
        settings, resolved = description.training, description.resolved
        self.model, self.data, self.description, self.folder = model, data, description, folder
        self.settings, self.write_text, self.display = settings, write_text, display
        self.budget = Budget.parse(settings.budget)
        self.flops_per_token = training_flops_per_token(model.recipe, resolved.context)
        self.sampler = Sampler(
            data.train,
            context=resolved.context,
            batch=settings.batch,
            seed=settings.order_seed,
            stride=settings.stride,
        )
        self.spent = Spent()
        self.peak_memory = 0
        self.saved_step: int | None = None
        checkpoint = newest_checkpoint(folder / CHECKPOINTS, display.note)
        if checkpoint is not None:
            load_weights(model, checkpoint.weights(), str(checkpoint.folder))
        self.stepper = Stepper(model.to(resolved.device), settings, resolved.precision, data.tokenizer.prefix[0])
        if checkpoint is not None:
            self.stepper.optimizers.restore(checkpoint.optimizer_state())
            self.spent = checkpoint.state.spent
            self.peak_memory = checkpoint.state.peak_memory_bytes
            self.saved_step = self.spent.steps
            display.note(f"going on after step {self.spent.steps} from {checkpoint.folder}")
        elif began(folder):
            display.note(f"{folder} has no checkpoint, so it begins again at the first step")

    def run(self) -> RunResult:
        """Spend the budget, score the model on the held-out split, and write result.json."""
        forget_after(self.folder / CHECKPOINTS, self.spent.steps)
        self.saved_at = time.monotonic()
        config = self.description.model_dump(mode="json")
        trackers = open_trackers(self.settings.trackers, self.folder, self.spent.steps, config)
        self.display.begin(self._title(), self.budget.share(self.spent))
        try:
            with matmul_precision(self.stepper.precision):
                with (
                    Metrics(self.folder / METRICS, self.spent.steps, self.display.note) as metrics,
                    stop_requests() as stop,
                ):
                    self._spend_budget(metrics, trackers, stop)
                return self._finish()
        finally:
            for tracker in trackers:
                tracker.close()
            self.display.end()

    def _spend_budget(self, metrics: Metrics, trackers: list[Tracker], stop: StopRequest) -> None:
        """The loop: steps until the budget is spent, with validation, samples and checkpoints between them."""
        settings = self.settings
        tokens = settings.batch * settings.accumulation * self.sampler.context
        cost = Spent(1, tokens, 0.0, tokens * self.flops_per_token)  # its seconds differ from step to step
        clock = time.perf_counter()
        while (before := self.budget.share(self.spent)) < 1:
            first = self.spent.steps * settings.accumulation
            batches = [self.sampler.batch(first + number) for number in range(settings.accumulation)]
            usual = replace(cost, seconds=self.spent.seconds / max(self.spent.steps, 1))
            lr = settings.lr * lr_factor(self.budget.share_amid(self.spent, usual), settings)
            torch.manual_seed(seed_for(settings.seed, self.spent.steps))
            try:
                with staying():
                    figures = self.stepper.step(batches, lr)
            except NotFinite as fault:
                raise self._diverged(self.spent.steps + 1, str(fault)) from None
            seconds = time.perf_counter() - clock
            clock += seconds
            self.spent += replace(cost, seconds=seconds)
            step, after = self.spent.steps, self.budget.share(self.spent)

            logged = {"loss": figures.loss, "gradient_norm": figures.gradient_norm, "lr": lr}
            if len(figures.parts) > 1:
                logged |= {f"loss/{name}": value for name, value in figures.parts.items()}
            timing = {"seconds": self.spent.seconds, "tokens_per_second": tokens / seconds}
            metrics.write("train", step, {"tokens": self.spent.tokens, **logged}, timing)
            for tracker in trackers:
                tracker.log({f"train/{name}": value for name, value in {**logged, **timing}.items()}, step)
            self.display.step(Status(step, after, figures.loss, self.spent.tokens, self.spent.seconds))

            validate = _due(settings.validate_every, step, before, after)
            write = self.write_text is not None and settings.sample_every and step % settings.sample_every == 0
            save = _due(settings.checkpoint_every, step, before, after) if settings.checkpoint_every else validate
            held_out_loss = self._validate(metrics, trackers) if validate else None
            if write:
                metrics.write("sample", step, {"text": self._sample()}, {})
            stopping = stop.signal
            save = save or stopping is not None or self._save_overdue()
            if save:
                metrics.settle()
                self._save(held_out_loss)
            if stopping is not None:
                raise self._interrupted(stopping)
            if validate or write or save:
                clock = time.perf_counter()  # only training is paid from the budget

    def _validate(self, metrics: Metrics, trackers: list[Tracker]) -> float:
        """Score the quick slice of the held-out split; returns nats per token."""
        began = time.perf_counter()
        score = self._evaluate(self.settings.validate_tokens)
        step = self.spent.steps
        figures: dict[str, Any] = {"loss": score.nats_per_token, "bpb": score.bits_per_byte}
        entropy, routing = score.attention_entropy or {}, score.routing or {}
        layers = {"attention_entropy": entropy, **score.layer_figures}
        inside = {**layers, "routing": {layer: dataclasses.asdict(router) for layer, router in routing.items()}}
        timing = {"seconds": self.spent.seconds, "validation_seconds": time.perf_counter() - began}
        metrics.write("held_out", step, {"tokens": self.spent.tokens, **figures, **inside}, timing)
        figures |= {f"{name}/{layer}": value for name, values in layers.items() for layer, value in values.items()}
        for layer, router in routing.items():
            names = ("max_violation", "entropy", "dead")
            figures |= {f"router_{name}/{layer}": getattr(router, name) for name in names}
        for tracker in trackers:
            tracker.log({f"held_out/{name}": value for name, value in figures.items()}, step)
        self.display.held_out(step, score)
        return score.nats_per_token

    def _evaluate(self, limit_tokens: int | None) -> Evaluation:
        with autocast(self.stepper.precision, self.stepper.device), staying():
            score = evaluate(
                self.model,
                self.data,
                context=self.sampler.context,
                batch=self.settings.batch,
                limit_tokens=limit_tokens,
                isolate_documents=self.settings.isolate_documents,
            )
        if not math.isfinite(score.nats_per_token):
            raise self._diverged(self.spent.steps, f"held-out loss {score.nats_per_token:.6g}")
        return score

    def _sample(self) -> str:
        """A text by the model as it is now, the same whenever it is asked for at this step."""
        assert self.write_text is not None
        torch.manual_seed(seed_for(self.settings.seed, self.spent.steps))
        with autocast(self.stepper.precision, self.stepper.device), staying():
            text = self.write_text(self.model, self.data.tokenizer)
        self.display.sample(self.spent.steps, text)
        return text

    def _save(self, held_out_loss: float | None) -> Path:
        """Save a checkpoint of this step, unless there is one already."""
        folder = self.folder / CHECKPOINTS
        if self.spent.steps != self.saved_step:
            self.peak_memory = max(self.peak_memory, peak_memory_bytes(self.stepper.device))
            save_checkpoint(
                folder,
                self.model.recipe,
                {**weights(self.model), **self.stepper.weights.named},
                self.stepper.optimizers.state(),
                State(spent=self.spent, peak_memory_bytes=self.peak_memory, held_out_loss=held_out_loss),
            )
            self.saved_step, self.saved_at = self.spent.steps, time.monotonic()
            prune(folder, self.settings.keep_last)
        return folder / str(self.spent.steps)

    def _save_overdue(self) -> bool:
        """Whether a kill would cost more minutes of work than the settings allow."""
        minutes = self.settings.checkpoint_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def _finish(self) -> RunResult:
        evaluation = self._evaluate(self.settings.evaluate_tokens)
        self.display.held_out(self.spent.steps, evaluation)
        counts = self.model.parameter_counts()
        result = RunResult(
            evaluation=evaluation,
            steps=self.spent.steps,
            tokens=self.spent.tokens,
            train_seconds=self.spent.seconds,
            tokens_per_second=self.spent.tokens / self.spent.seconds,
            peak_memory_bytes=self.peak_memory,
            parameters=counts["total"],
            parameters_non_embedding=counts["non_embedding"],
            parameters_active=counts["active"],
            flops_per_token=self.flops_per_token,
            cache_bytes_per_token=cache_bytes_per_token(self.model, self.sampler.context),
            scored_share=self.model.objective.scored_share,
            precision=self.stepper.precision,
            curve=curve(self.folder / METRICS),
            sample=self._sample() if self.write_text is not None else "",
        )
        write_atomically(self.folder / RESULT, result.model_dump_json(indent=1))
        return result

    def _diverged(self, step: int, found: str) -> TrainingDiverged:
        """The error of a step that went wrong, or whose weights turned out to have."""
        saved = self._save(None)
        which = "before" if step > self.spent.steps else "after"
        return TrainingDiverged(
            f"training diverged at step {step}: {found}; the weights {which} it are saved in {saved}; "
            f"try a lower learning rate than {self.settings.lr:g}, or a longer warmup"
        )

    def _interrupted(self, signal: int) -> Interrupted:
        sentence = f"stopped after step {self.spent.steps} and saved; the same command goes on from there"
        self.display.note(sentence)
        return Interrupted(sentence, signal)

    def _title(self) -> str:
        count, precision = self.model.parameter_counts()["total"], self.stepper.precision
        return (
            f"training {self.model.recipe.name} ({count:,} parameters) for {self.budget} in {self.folder}, "
            f"{self.settings.batch * self.settings.accumulation} x {self.sampler.context} tokens a step, "
            f"on {self.stepper.device}, precision {precision} ({DESCRIPTIONS[precision]})"
        )


def _due(every: int | None, step: int, before: float, after: float) -> bool:
    """Whether what is done every so many steps (ten times over the budget when not said) is due; always at the end."""
    if after >= 1:
        return True
    return step % every == 0 if every else int(after * VALIDATIONS) > int(before * VALIDATIONS)
