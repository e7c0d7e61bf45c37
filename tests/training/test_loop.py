import functools
import json
import math
import os
import signal
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from litmus.data import DataSettings, prepare
from litmus.data.sampler import Sampler
from litmus.errors import BadInput, Failed
from litmus.model import build
from litmus.nn import Batch
from litmus.training import TrainSettings
from litmus.training.display import Display
from litmus.training.evaluation import check_scorable
from litmus.training.optimizers import lr_factor
from litmus.training.run.loading import load_run
from litmus.training.run.result import read_result
from litmus.training.trainer import Interrupted, TrainingDiverged, train_run


def final_weights(folder):
    newest = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    return load_file(folder / "checkpoints" / str(newest) / "model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorder(Display):
    """Remembers what it was told."""

    def __init__(self):
        self.notes, self.steps = [], []

    def log(self, text):
        self.notes.append(text)

    def step(self, status):
        self.steps.append(status)


def test_a_tiny_model_learns_something_in_sixty_steps(quick):
    result = quick(budget="60 steps", lr=0.01)
    assert result.evaluation.bits_per_byte < 0.7 * math.log2(257)
    assert result.curve[-1].val_loss < 0.7 * result.curve[0].val_loss


def test_a_run_folder_holds_all_that_a_run_is(quick, tmp_path):
    quick()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"recipe.yaml", "run.yaml", "metrics.jsonl", "checkpoints", "result.json", "tokenizer"} <= names


@pytest.mark.parametrize(
    ("budget", "steps"), [("7 steps", 7), ("448 tokens", 7), ("449 tokens", 8), ("{seven_steps} flops", 7)]
)
def test_budgets_end_the_training_at_the_step_that_spends_them(quick, budget, steps):
    flops = quick("measure", budget="1 step").flops_per_token
    result = quick(budget=budget.format(seven_steps=repr(7 * 64 * flops)))
    assert result.steps == steps
    assert result.tokens == steps * 64


def test_a_budget_in_seconds_counts_training_only_and_anneals_to_the_end(quick, events):
    def slow_sample(model, tokenizer):
        threading.Event().wait(0.2)
        return ""

    result = quick(budget="0.5s", sample=slow_sample, sample_every=5, warmup=0.0, schedule="linear", final_lr=0.0)
    assert 0.5 <= result.train_seconds < 0.7
    rates = [event["lr"] for event in events(kind="train")]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.15 * rates[0]


def test_the_learning_rate_is_that_of_the_middle_of_each_step(quick, events):
    quick(schedule="linear", warmup=0.2)
    settings = TrainSettings(schedule="linear", warmup=0.2)
    expected = [settings.lr * lr_factor((step + 0.5) / 20, settings) for step in range(20)]
    assert [event["lr"] for event in events(kind="train")] == pytest.approx(expected)


def test_validation_samples_and_checkpoints_do_not_touch_the_training(quick, events, tmp_path):
    def careless_sample(model, tokenizer):
        torch.manual_seed(1)
        model.eval()
        torch.rand(100)
        model.train()
        return "text"

    quick("often", validate_every=1, sample_every=2, checkpoint_every=3, sample=careless_sample)
    quick("rarely", validate_every=20)
    assert events("often", "train") == events("rarely", "train")
    assert equal(final_weights(tmp_path / "often"), final_weights(tmp_path / "rarely"))


def test_the_same_seed_repeats_a_training_bit_for_bit_and_another_does_not(quick, tmp_path):
    quick("a", seed=1)
    quick("b", seed=1)
    quick("c", seed=2)
    assert equal(final_weights(tmp_path / "a"), final_weights(tmp_path / "b"))
    assert not equal(final_weights(tmp_path / "a"), final_weights(tmp_path / "c"))


def test_arms_with_one_data_seed_see_the_same_batches(quick, monkeypatch):
    from litmus.data.sampler import Sampler

    seen = []
    plain = Sampler.batch

    def watched(self, step):
        batch = plain(self, step)
        seen.append(batch.windows)
        return batch

    monkeypatch.setattr(Sampler, "batch", watched)
    quick("a", seed=1, data_seed=5)
    first, seen[:] = list(seen), []
    quick("b", seed=2, data_seed=5, recipe={"dim": 8})
    assert seen == first


def test_accumulation_sees_the_batches_of_one_large_batch_in_order(quick, events):
    quick("large", batch=4, recipe={"dropout": 0.0})
    quick("parts", batch=2, accumulation=2, recipe={"dropout": 0.0}, validate_tokens=128)
    for one, other in zip(events("large", "train"), events("parts", "train"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["tokens"] == one["tokens"]


def test_label_smoothing_never_enters_a_validation_loss(quick, events):
    quick("plain", label_smoothing=0.0, lr=1e-9)
    quick("smooth", label_smoothing=0.9, lr=1e-9)
    plain, smooth = (events(name, "val")[-1]["loss"] for name in ("plain", "smooth"))
    assert smooth == pytest.approx(plain, rel=1e-5)
    assert events("smooth", "train")[0]["loss"] != events("plain", "train")[0]["loss"]


@pytest.mark.parametrize("precision", ["fp32", "medium", "bf16-autocast", "bf16"])
def test_every_precision_trains_and_saves_fp32_weights(quick, tmp_path, precision):
    result = quick(precision=precision, budget="40 steps", lr=0.01)
    assert result.precision == precision
    assert result.evaluation.bits_per_byte < 6.5
    assert {tensor.dtype for tensor in final_weights(tmp_path / "run").values()} == {torch.float32}


def test_medium_products_are_asked_for_while_training_and_not_after(quick):
    seen = []

    class Watch(Display):
        def step(self, status):
            seen.append(torch.get_float32_matmul_precision())

    before = torch.get_float32_matmul_precision()
    quick(precision="medium", budget="2 steps", display=Watch())
    assert seen == ["medium", "medium"]
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("options", [{"optimizer": "muon"}, {"isolate_documents": True}, {"stride": 3}, {"clip": None}])
def test_every_option_of_the_loop_trains(quick, options):
    assert quick(budget="40 steps", lr=0.01, **options).evaluation.bits_per_byte < 6.5


@pytest.mark.parametrize("options", [{}, {"stride": 3}, {"isolate_documents": True}, {"stride": 5, "data_seed": 7}])
def test_the_first_step_descends_the_loss_of_the_windows_and_documents_that_were_asked_for(
    options, recipe, tmp_path, events
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{'ab' * (n % 3)} row {n}"}) + "\n" for n in range(300)))
    corpus = DataSettings(corpus=f"{rows}:text", tokenizer="bytes")
    plain = {**recipe, "dropout": 0.0}
    settings = TrainSettings(budget="1 step", batch=4, context=16, precision="fp32", threads=1, **options)
    train_run(plain, corpus, settings, tmp_path / "run")

    data = prepare(corpus)
    stride, order = options.get("stride"), options.get("data_seed", 0)
    inputs, targets, _ = Sampler(data.train, context=16, batch=4, seed=order, stride=stride).batch(0)
    documents = (inputs == data.tokenizer.eos_id).cumsum(1) if options.get("isolate_documents") else None
    model = build(plain, vocab_size=data.tokenizer.vocab_size, seed=0)
    expected = model.loss(Batch(inputs, targets, documents)).total.item()
    assert events("run", "train")[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_loss_can_be_compiled(quick, events, monkeypatch):
    traced = functools.partial(torch.compile, backend="aot_eager")  # all of compilation but the C++ compiler
    quick("plain", budget="3 steps", recipe={"dropout": 0.0})
    monkeypatch.setattr(torch, "compile", traced)
    quick("compiled", budget="3 steps", compile=True, recipe={"dropout": 0.0})
    for one, other in zip(events("plain", "train"), events("compiled", "train"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_compile_without_a_compiler_says_what_is_missing(quick, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BadInput, match=r"needs a C\+\+ compiler"):
        quick(compile=True)


def test_ten_validations_are_spread_over_a_budget_that_says_nothing_else(quick, events):
    quick(budget="50 steps", validate_every=None)
    assert [event["step"] for event in events(kind="val")] == list(range(5, 51, 5))


def test_the_curve_pairs_each_validation_with_the_training_since_the_last(quick, events):
    result = quick()
    losses = [event["loss"] for event in events(kind="train")]
    assert [point.step for point in result.curve] == [5, 10, 15, 20]
    assert result.curve[1].train_loss == pytest.approx(sum(losses[5:10]) / 5)
    assert result.curve[1].val_bpb == events(kind="val")[1]["bpb"]


def test_a_finished_run_is_not_trained_again(quick, tmp_path):
    result = quick()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    recorder = Recorder()
    assert quick(display=recorder) == result == read_result(tmp_path / "run")
    assert recorder.steps == []
    assert "already trained" in recorder.notes[-1]
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_result_lost_after_the_last_checkpoint_is_made_again_without_training(quick, tmp_path):
    result = quick(sample=lambda model, tokenizer: str(torch.rand(())))
    (tmp_path / "run" / "result.json").unlink()
    recorder = Recorder()
    again = quick(sample=lambda model, tokenizer: str(torch.rand(())), display=recorder)
    assert recorder.steps == []
    assert again.model_dump(exclude={"peak_memory_bytes"}) == result.model_dump(exclude={"peak_memory_bytes"})


def test_a_folder_of_another_recipe_or_other_settings_is_refused(quick):
    quick()
    with pytest.raises(BadInput, match=r"belongs to a run with recipe.dim = 16, and 8 was asked for"):
        quick(recipe={"dim": 8})
    with pytest.raises(BadInput, match=r"belongs to a run with training.lr = 0.003, and 0.5 was asked for"):
        quick(lr=0.5)
    with pytest.raises(BadInput, match="already holds a run"):
        quick(resume=False)


def test_a_training_that_could_not_begin_leaves_its_folder_free(quick):
    with pytest.raises(BadInput, match="shorter than one window"):
        quick(context=10**6)
    assert quick(context=16).steps == 20


def test_a_held_out_split_shorter_than_one_window_is_found_before_the_first_step(quick, data_settings, data, tmp_path):
    context = len(data.held_out) + 5
    assert context < len(data.train)
    display = Recorder()
    with pytest.raises(BadInput, match="the held-out split is shorter than one window"):
        quick(context=context, display=display)
    assert display.steps == [] and not (tmp_path / "run").exists()


def test_held_out_tokens_without_text_are_found_before_the_first_step():
    class Ends:
        held_out = np.full(40, 7)
        token_bytes = np.array([1] * 7 + [0])
        windows = None

    with pytest.raises(BadInput, match=r"the first \d scored tokens hold no text to score"):
        check_scorable(Ends(), 8, [None, 1])


def explode_at(monkeypatch, step):
    """The gradient of one parameter becomes infinite at this step (counted from 1)."""
    from litmus.training.train_step import TrainStep

    plain, calls = TrainStep._backward, []

    def poisoned(self, batch, totals):
        losses = plain(self, batch, totals)
        calls.append(batch)
        if len(calls) == step:
            self.weights.named["layers.1.mixer.out.weight"].grad[0, 0] = torch.inf
        return losses

    monkeypatch.setattr(TrainStep, "_backward", poisoned)
    return calls


def test_a_training_that_diverges_saves_first_and_names_step_batch_and_parameter(quick, tmp_path, monkeypatch):
    calls = explode_at(monkeypatch, 8)
    with pytest.raises(TrainingDiverged) as raised:
        quick()
    assert isinstance(raised.value, Failed)
    sentence = str(raised.value)
    assert "at step 8" in sentence
    assert "largest in layers.1.mixer.out.weight (inf)" in sentence
    assert ", ".join(map(str, calls[-1].windows)) in sentence
    assert load_run(tmp_path / "run").step == 7
    monkeypatch.undo()


def test_a_held_out_loss_that_is_not_finite_stops_the_training_too(quick, monkeypatch):
    from litmus.model import Decoder

    plain = Decoder.token_losses
    monkeypatch.setattr(Decoder, "token_losses", lambda *args, **kw: plain(*args, **kw) * torch.nan)
    with pytest.raises(TrainingDiverged, match="diverged at step 5: held-out loss nan; the weights after it are saved"):
        quick()


def test_a_training_that_diverges_in_its_first_step_leaves_one_sentence_and_its_start(quick, tmp_path, monkeypatch):
    explode_at(monkeypatch, 1)
    with pytest.raises(TrainingDiverged, match=r"training diverged at step 1: .* the weights before it are saved in"):
        quick()
    assert load_run(tmp_path / "run").step == 0


class InterruptAt(Recorder):
    """Presses Ctrl-C in the middle of the training."""

    def __init__(self, step, number=signal.SIGINT):
        super().__init__()
        self.at, self.number = step, number

    def step(self, status):
        super().step(status)
        if status.step == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_saves_says_so_and_goes_on_as_if_nothing_had_been(quick, events, tmp_path, number):
    handler = signal.getsignal(number)
    display = InterruptAt(7, number)
    with pytest.raises(Interrupted, match="after step 7"):
        quick("stopped", display=display)
    assert "the same command resumes it" in display.notes[-1]
    assert len(display.steps) == 7
    assert signal.getsignal(number) == handler
    assert load_run(tmp_path / "stopped").step == 7
    quick("stopped")
    quick("whole")
    assert events("stopped") == events("whole")
    assert equal(final_weights(tmp_path / "stopped"), final_weights(tmp_path / "whole"))


def test_a_second_ctrl_c_ends_at_once(quick):
    class Impatient(Recorder):
        def step(self, status):
            super().step(status)
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    display = Impatient()
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin by ignoring it
    try:
        with pytest.raises(KeyboardInterrupt) as raised:
            quick(display=display)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert not isinstance(raised.value, Interrupted)
    assert len(display.steps) == 1


def test_ctrl_c_means_the_usual_thing_again_after_a_training(quick):
    before = signal.getsignal(signal.SIGINT)
    quick(budget="1 step")
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_process_may_not_train_in_the_same_folder(quick, tmp_path):
    refusals = []

    class Intruder(Recorder):
        def step(self, status):
            if status.step == 3:
                with pytest.raises(BadInput, match="another process is training") as raised:
                    quick()
                refusals.append(raised.value)

    quick(display=Intruder())
    assert len(refusals) == 1
