"""The training loop, its validations and checkpoints, and how signals stop it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from litmus.data import DataSettings, TokenData, prepare
from litmus.data.chat.batches import WindowSampler, sampler_of
from litmus.data.sampler import check_window_fits
from litmus.errors import BadInput, Failed
from litmus.files import write_atomically
from litmus.locks import folder_lock
from litmus.model import Decoder, Recipe, Source, build, cache_bytes_per_token, resolve, training_flops_per_token
from litmus.model.bounds import check_trained
from litmus.model.plugins import plugin_faults, restored_cwd
from litmus.model.storage import load_weights, weights
from litmus.runtime.device import reproducible, seed_devices_in_use
from litmus.runtime.memory import peak_memory_bytes
from litmus.runtime.precision import DESCRIPTIONS, autocast, matmul_precision
from litmus.training.budget import Budget, Usage
from litmus.training.display import Display, Status
from litmus.training.evaluation import Evaluation, check_scorable, evaluate
from litmus.training.optimizers import lr_factor
from litmus.training.run.checkpoints import State, newest_checkpoint, prune, remove_later, save_checkpoint
from litmus.training.run.config import CHECKPOINTS, METRICS, LoadedRun, RunConfig, make_config
from litmus.training.run.folder import has_started, open_run
from litmus.training.run.metrics import Metrics, Tracker, open_trackers
from litmus.training.run.result import RESULT, RunResult, curve, read_result
from litmus.training.settings import TrainSettings
from litmus.training.stopping import Interrupted, StopRequest, no_longer_improves, stop_requests
from litmus.training.train_step import NotFinite, TrainStep, seed_for

DEFAULT_VALIDATIONS = 10
"""Number of validations over a budget if the settings do not give their interval."""

SampleText = Callable[[Decoder, Any], str]
"""(model, tokenizer) -> a text that the model generates, shown during the training."""

Gate = Callable[[Recipe, Path], None]
"""(resolved recipe, run folder) -> None, called before the first step; an exception stops the training."""


class TrainingDiverged(Failed):
    """The loss or a gradient is not finite; the message names the step, the batch and the largest gradient."""


def train_run(
    recipe: Source,
    data_settings: DataSettings,
    settings: TrainSettings,
    folder: str | Path,
    *,
    start: LoadedRun | None = None,
    resume: bool = True,
    gate: Gate | None = None,
    sample: SampleText | None = None,
    display: Display | None = None,
    trust_plugin: bool = False,
    data: TokenData | None = None,
) -> RunResult:
    """Train `recipe` in the run folder `folder` until the budget is used, resuming an earlier training there.

    start: the run whose weights the training starts from; `recipe` must be its own. gate: called once the folder is
    open, before the first step. sample: generates the text samples. trust_plugin: run code that a recipe file names
    even if the user has never named it. data: what `data_settings` name, if it is not to be
    prepared. A finished run is returned as it is, unless `settings` has a larger budget.

    Raises BadInput if the folder belongs to another training or is locked by another process, Failed if the code of a
    plug-in fails, TrainingDiverged if a loss or gradient is not finite, Interrupted after SIGINT, SIGTERM or SIGHUP.
    """
    display = display or Display()
    sized = resolve(recipe, trust_plugin=trust_plugin)
    check_trained(sized, settings.batch, settings.context)
    own_context = sized.context if start is None else start.config.resolved.context
    data_settings = data_settings.for_context(settings.context or own_context)
    data = data or prepare(data_settings, log=display.log)
    vocabulary = data.tokenizer.vocab_size if start is None else None
    whole = resolve(recipe, vocab_size=vocabulary, trust_plugin=trust_plugin)
    if data.tokenizer.vocab_size > whole.vocab_size:
        raise BadInput(
            f"the tokenizer {data_settings.tokenizer!r} has {data.tokenizer.vocab_size} tokens and the model takes "
            f"{whole.vocab_size}; train from a run whose tokenizer has no more tokens than its model"
        )
    new = make_config(whole, data, data_settings, settings, start)
    if data.windows is None:
        check_window_fits(data.train, new.resolved.context, "train")
    check_scorable(data, new.resolved.context, (settings.validate_tokens, settings.evaluate_tokens))
    folder = Path(folder)
    with folder_lock(folder, "training in"):
        config = open_run(folder, new, whole, data.tokenizer, data.chat_template, resume=resume, log=display.log)
        if gate is not None:
            gate(whole, folder)
        if (finished := _finished(folder, config)) is not None:
            display.log(f"{folder} is already trained: {config.training.budget} are spent; nothing to do")
            return finished
        with reproducible(config.resolved.threads):
            model = build(whole, seed=settings.seed) if start is None else start.model
            with plugin_faults(whole, "training"):
                return Trainer(model, data, config, folder, sample, display).run()


def _finished(folder: Path, config: RunConfig) -> RunResult | None:
    """The result of a run whose budget is used; None if the result is that of a smaller budget, before an extension."""
    result = read_result(folder)
    if result is None:
        return None
    if result.stopped_early:
        return result
    usage = Usage(result.steps, result.tokens, result.train_seconds, result.tokens * result.flops_per_token)
    return result if Budget.parse(config.training.budget).fraction(usage) >= 1 else None


class Trainer:
    """Trains one model in one run folder."""

    def __init__(
        self,
        model: Decoder,
        data: TokenData,
        config: RunConfig,
        folder: Path,
        sample_text: SampleText | None,
        display: Display,
    ) -> None:
        """Start with a new model, or with the state of the newest undamaged checkpoint in the folder."""
        settings, resolved = config.training, config.resolved
        self.model, self.data, self.config, self.folder = model, data, config, folder
        self.settings, self.sample_text, self.display = settings, sample_text, display
        self.budget = Budget.parse(settings.budget)
        self.flops_per_token = training_flops_per_token(model.recipe, resolved.context)
        self.sampler = sampler_of(
            data,
            context=resolved.context,
            batch=settings.batch,
            seed=settings.order_seed,
            stride=settings.stride,
        )
        self.usage = Usage()
        self.peak_memory = 0
        self.val_losses: list[float] = []
        self.saved_step: int | None = None
        checkpoint = newest_checkpoint(folder / CHECKPOINTS, display.log)
        if checkpoint is not None:
            load_weights(model, checkpoint.weights(), str(checkpoint.folder))
        self.train_step = TrainStep(model.to(resolved.device), settings, resolved.precision, data.tokenizer.prefix[0])
        if checkpoint is not None:
            self.train_step.optimizers.restore(checkpoint.optimizer_state())
            self.usage = checkpoint.state.usage
            self.peak_memory = checkpoint.state.peak_memory_bytes
            self.saved_step = self.usage.steps
            points = curve(folder / METRICS) if (folder / METRICS).exists() else []  # Metrics says what is missing
            self.val_losses = [point.val_loss for point in points if point.step <= self.usage.steps]
            display.log(f"resuming after step {self.usage.steps} from {checkpoint.folder}")
        elif has_started(folder):
            display.log(f"{folder} has no checkpoint, so it starts again at the first step")

    def run(self) -> RunResult:
        """Train until the budget is used, evaluate the model on the held-out split, and write result.json."""
        remove_later(self.folder / CHECKPOINTS, self.usage.steps)
        self.saved_at = time.monotonic()
        config = self.config.model_dump(mode="json")
        trackers = open_trackers(self.settings.trackers, self.folder, self.usage.steps, config)
        self.display.begin(self._title(), self.budget.fraction(self.usage))
        if isinstance(self.sampler, WindowSampler):
            rows, padding = self.sampler.windows_per_epoch, self.sampler.padding
            self.display.log(
                f"an epoch has {len(self.sampler.windows):,} windows in {rows:,} rows, {padding:.1%} padding"
            )
        try:
            with matmul_precision(self.train_step.precision):
                with (
                    Metrics(self.folder / METRICS, self.usage.steps, self.display.log) as metrics,
                    stop_requests() as stop,
                ):
                    self._train_until_budget(metrics, trackers, stop)
                return self._finish()
        finally:
            for tracker in trackers:
                tracker.close()
            self.display.end()

    def _train_until_budget(self, metrics: Metrics, trackers: list[Tracker], stop: StopRequest) -> None:
        """The loop: steps until the budget is used, with validations, samples and checkpoints between them."""
        settings = self.settings
        tokens = settings.batch * settings.accumulation * self.sampler.context
        step_cost = Usage(1, tokens, 0.0, tokens * self.flops_per_token)  # without its seconds, which vary
        clock = time.perf_counter()
        while (before := self.budget.fraction(self.usage)) < 1 and not self._stops_early():
            first = self.usage.steps * settings.accumulation
            batches = [self.sampler.batch(first + number) for number in range(settings.accumulation)]
            mean_cost = replace(step_cost, seconds=self.usage.seconds / max(self.usage.steps, 1))
            lr = settings.lr * lr_factor(self.budget.fraction_mid_step(self.usage, mean_cost), settings)
            seed_devices_in_use(seed_for(settings.seed, self.usage.steps))
            try:
                with restored_cwd():
                    stats = self.train_step.step(batches, lr)
            except NotFinite as fault:
                raise self._diverged(self.usage.steps + 1, str(fault)) from None
            seconds = time.perf_counter() - clock
            clock += seconds
            self.usage += replace(step_cost, seconds=seconds)
            step, after = self.usage.steps, self.budget.fraction(self.usage)

            logged = {"loss": stats.loss, "gradient_norm": stats.gradient_norm, "lr": lr}
            if len(stats.parts) > 1:
                logged |= {f"loss/{name}": value for name, value in stats.parts.items()}
            timing = {"seconds": self.usage.seconds, "tokens_per_second": tokens / seconds}
            metrics.write("train", step, {"tokens": self.usage.tokens, **logged}, timing)
            for tracker in trackers:
                tracker.log({f"train/{name}": value for name, value in {**logged, **timing}.items()}, step)
            self.display.step(Status(step, after, stats.loss, self.usage.tokens, self.usage.seconds))

            ends_epoch = settings.checkpoint_every == "epoch" and self._epochs(step) > self._epochs(step - 1)
            validate = ends_epoch or _due(settings.validate_every, step, before, after)
            sample = self.sample_text is not None and settings.sample_every and step % settings.sample_every == 0
            save = ends_epoch or (validate if settings.checkpoint_every is None else after >= 1)
            if isinstance(settings.checkpoint_every, int) and settings.checkpoint_every:
                save = _due(settings.checkpoint_every, step, before, after)
            val_loss = self._validate(metrics, trackers) if validate else None
            if sample:
                metrics.write("sample", step, {"text": self._sample()}, {})
            stopping = stop.signal
            save = save or stopping is not None or self._stops_early() or self._save_overdue()
            if save:
                metrics.sync()
                self._save(val_loss)
            if stopping is not None:
                raise self._interrupted(stopping)
            if validate or sample or save:
                clock = time.perf_counter()  # only training steps count towards the budget

    def _epochs(self, steps: int) -> int:
        """Passes over the data that are complete after so many steps."""
        rows = steps * self.settings.batch * self.settings.accumulation
        return rows // self.sampler.windows_per_epoch if self.sampler.windows_per_epoch else 0

    def _validate(self, metrics: Metrics, trackers: list[Tracker]) -> float:
        """Evaluate on the first `validate_tokens` held-out tokens; returns nats per token."""
        started = time.perf_counter()
        score = self._evaluate(self.settings.validate_tokens, "validation")
        step = self.usage.steps
        scores: dict[str, Any] = {"loss": score.nats_per_token, "bpb": score.bits_per_byte}
        entropy, routing = score.attention_entropy or {}, score.routing or {}
        layers = {"attention_entropy": entropy, **score.layer_stats}
        by_layer = {**layers, "routing": {layer: dataclasses.asdict(router) for layer, router in routing.items()}}
        timing = {"seconds": self.usage.seconds, "validation_seconds": time.perf_counter() - started}
        metrics.write("val", step, {"tokens": self.usage.tokens, **scores, **by_layer}, timing)
        scores |= {f"{name}/{layer}": value for name, values in layers.items() for layer, value in values.items()}
        for layer, router in routing.items():
            names = ("max_violation", "entropy", "dead")
            scores |= {f"router_{name}/{layer}": getattr(router, name) for name in names}
        for tracker in trackers:
            tracker.log({f"val/{name}": value for name, value in scores.items()}, step)
        self.display.validated(step, score)
        self.val_losses.append(score.nats_per_token)
        if self._stops_early():
            self.display.log(
                f"the last {self.settings.patience} validations have no lower loss: stopping at step {step}"
            )
        return score.nats_per_token

    def _stops_early(self) -> bool:
        return no_longer_improves(self.val_losses, self.settings.patience)

    def _evaluate(self, limit_tokens: int | None, split: str = "held_out") -> Evaluation:
        """The score on the held-out split; threads have one for validation besides."""
        with autocast(self.train_step.precision, self.train_step.device), restored_cwd():
            score = evaluate(
                self.model,
                self.data,
                context=self.sampler.context,
                batch=self.settings.batch,
                limit_tokens=limit_tokens,
                isolate_documents=self.settings.isolate_documents,
                split=split,
            )
        if not math.isfinite(score.nats_per_token):
            raise self._diverged(self.usage.steps, f"held-out loss {score.nats_per_token:.6g}")
        return score

    def _sample(self) -> str:
        """A text that the model generates, which depends only on the seed and the step."""
        assert self.sample_text is not None
        seed_devices_in_use(seed_for(self.settings.seed, self.usage.steps))
        with autocast(self.train_step.precision, self.train_step.device), restored_cwd():
            text = self.sample_text(self.model, self.data.tokenizer)
        self.display.sample(self.usage.steps, text)
        return text

    def _save(self, val_loss: float | None) -> Path:
        """Save a checkpoint of this step, unless there is one."""
        folder = self.folder / CHECKPOINTS
        if self.usage.steps != self.saved_step:
            self.peak_memory = max(self.peak_memory, peak_memory_bytes(self.train_step.device))
            save_checkpoint(
                folder,
                self.model.recipe,
                {**weights(self.model), **self.train_step.weights.named},
                self.train_step.optimizers.state(),
                State(usage=self.usage, peak_memory_bytes=self.peak_memory, val_loss=val_loss),
            )
            self.saved_step, self.saved_at = self.usage.steps, time.monotonic()
            prune(folder, self.settings.keep_last)
        return folder / str(self.usage.steps)

    def _save_overdue(self) -> bool:
        """Whether the last checkpoint is older than the settings allow."""
        minutes = self.settings.checkpoint_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def _finish(self) -> RunResult:
        evaluation = self._evaluate(self.settings.evaluate_tokens)
        self.display.validated(self.usage.steps, evaluation)
        counts = self.model.parameter_counts()
        result = RunResult(
            evaluation=evaluation,
            steps=self.usage.steps,
            tokens=self.usage.tokens,
            train_seconds=self.usage.seconds,
            tokens_per_second=self.usage.tokens / self.usage.seconds,
            peak_memory_bytes=self.peak_memory,
            parameters=counts["total"],
            parameters_non_embedding=counts["non_embedding"],
            parameters_active=counts["active"],
            flops_per_token=self.flops_per_token,
            cache_bytes_per_token=cache_bytes_per_token(self.model, self.sampler.context),
            scored_share=self.model.objective.scored_share,
            precision=self.train_step.precision,
            stopped_early=self.budget.fraction(self.usage) < 1,
            curve=curve(self.folder / METRICS),
            sample=self._sample() if self.sample_text is not None else "",
        )
        write_atomically(self.folder / RESULT, result.model_dump_json(indent=1))
        return result

    def _diverged(self, step: int, found: str) -> TrainingDiverged:
        """The error for a step that is not finite, or for weights that are found not to be; the weights are saved."""
        saved = self._save(None)
        which = "before" if step > self.usage.steps else "after"
        return TrainingDiverged(
            f"training diverged at step {step}: {found}; the weights {which} it are saved in {saved}; "
            f"try a lower learning rate than {self.settings.lr:g}, or a longer warmup"
        )

    def _interrupted(self, number: int) -> Interrupted:
        sentence = f"stopped after step {self.usage.steps} and saved; the same command resumes it"
        self.display.log(sentence)
        return Interrupted(sentence, number)

    def _title(self) -> str:
        count, precision = self.model.parameter_counts()["total"], self.train_step.precision
        return (
            f"training {self.model.recipe.name} ({count:,} parameters) for {self.budget} in {self.folder}, "
            f"{self.settings.batch * self.settings.accumulation} x {self.sampler.context} tokens a step, "
            f"on {self.train_step.device}, precision {precision} ({DESCRIPTIONS[precision]})"
        )


def _due(every: int | None, step: int, before: float, after: float) -> bool:
    """Whether something that is due every `every` steps (None: ten times over the budget) and at the end is due now."""
    if after >= 1:
        return True
    return step % every == 0 if every else int(after * DEFAULT_VALIDATIONS) > int(before * DEFAULT_VALIDATIONS)
