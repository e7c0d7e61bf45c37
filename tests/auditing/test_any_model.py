"""The audit of models that are no recipes: modules, functions, files with a builder, folders of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import litmus
from litmus.auditing.adapters import target_of
from litmus.cli import main
from litmus.errors import BadInput
from tests.auditing.small_gpt import GPT

CHECKS = ("causality", "prefix consistency", "cache parity", "position parity", "equivalence")
SMALL = Path(__file__).with_name("small_gpt.py")


def exit_code(*arguments: str) -> int:
    """The exit code of a `litmus` command."""
    try:
        main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_what_a_module_can_be_asked_is_learned_from_trial_calls():
    target = target_of(GPT(), quick=True)
    assert (target.vocab_size, target.context, target.longest, target.depth, target.width) == (37, 48, 48, 2, 32)
    assert target.calls.logits_need_targets and target.calls.ignored == -1
    assert target.rounding == 1e-9
    assert {ability for ability in ("loss", "weights", "embeddings") if target.lacks(ability)} == set()
    assert target.lacks("cache") and target.lacks("padding mask") and target.lacks("recipe")


def test_a_context_that_is_not_stated_is_found():
    model = GPT(block_size=45)
    model.config.block_size = 45.0  # its own assertion holds, and it states no whole number
    assert target_of(model, quick=True).context == 45


def test_a_check_that_needs_what_the_model_lacks_is_not_applicable_and_says_why():
    report = litmus.audit(GPT(), quick=True, only=CHECKS)
    assert report.passed and report.subject == "GPT"
    assert report["causality"].status == "pass"
    assert report["causality"].detail.endswith("(not checked: the model takes no document ids)")
    assert report["cache parity"].status == "not applicable"
    assert report["cache parity"].detail == "the model takes no cache that it returns (a parameter past_key_values)"
    assert report["equivalence"].detail.endswith("are derivatives (not checked: the model has no recipe)")


def test_a_leaking_module_fails_causality():
    report = litmus.audit(GPT(peek=1), quick=True, only=["causality"])
    assert report.mark() == "fails audit: sees the future"
    assert report["causality"].where == "h.1.attn (Attention), position 0, which sees token 1"


class AsksForItsTargets(GPT):
    """Its logits contain the targets that it is given."""

    def forward(self, idx, targets=None):
        logits, loss = super().forward(idx, targets)
        if targets is not None:
            logits = logits + torch.nn.functional.one_hot(targets.clamp(min=0), logits.shape[-1])
        return logits, loss


def test_logits_that_contain_the_targets_see_the_future():
    assert not litmus.audit(AsksForItsTargets(), quick=True, only=["causality"]).passed


class LossOfTheTokenItself(GPT):
    """Targets that are not shifted: the loss is that of a copy."""

    def forward(self, idx, targets=None):
        logits, _ = super().forward(idx, idx)
        logits = logits + 9 * torch.nn.functional.one_hot(idx, logits.shape[-1])
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), idx.flatten())


def test_a_loss_below_that_of_random_tokens_is_no_prediction():
    report = litmus.audit(LossOfTheTokenItself(), quick=True, only=["causality"])
    assert report["causality"].mark == "predicts what cannot be predicted"
    assert "below ln 37 = 3.611" in report["causality"].detail


class SinglePrecisionOnly(GPT):
    """A model that needs fp32, and whose loss cannot skip a target."""

    def forward(self, idx, targets=None):
        if next(self.parameters()).dtype != torch.float32:
            raise TypeError("a kernel for fp32 only")
        if targets is not None and (targets < 0).any():
            raise IndexError("no such target")
        return super().forward(idx, targets)


class Penalized(GPT):
    """A penalty on large logits is part of its loss: in every mode, or in training only."""

    in_evaluation = True

    def forward(self, idx, targets=None):
        logits, loss = super().forward(idx, targets)
        if targets is not None and (self.training or self.in_evaluation):
            loss = loss + 0.1 * logits.square().mean()
        return logits, loss


def test_a_validation_loss_with_another_term_in_it_is_no_cross_entropy():
    model = Penalized()
    report = litmus.audit(model, quick=True, only=["coverage"])
    assert report.mark() == "fails audit: is scored by more than the cross-entropy of its predictions"
    model.in_evaluation = False
    assert litmus.audit(model, quick=True, only=["coverage"]).passed


class WithLabels(GPT):
    """Its labels are the tokens themselves, as in transformers: the loss shifts them."""

    def forward(self, input_ids, labels=None):
        logits = self.lm_head(self.hidden(input_ids))
        if labels is None:
            return {"logits": logits}
        return {"logits": logits, "loss": cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}


def test_a_module_that_shifts_its_labels_is_sound_and_one_that_shifts_targets_twice_is_not():
    target = target_of(WithLabels(), quick=True)
    assert target.calls.shifts and target.context == 47  # the loss of 48 targets takes 49 tokens
    report = litmus.audit(WithLabels(), quick=True, only=["causality", "coverage", "overfits one batch"])
    assert {finding.name: finding.detail for finding in report.failed} == {}

    class ShiftsTwice(WithLabels):
        def forward(self, idx, targets=None):
            output = super().forward(idx, targets)
            return output["logits"], output.get("loss")

    assert not litmus.audit(ShiftsTwice(), quick=True, only=["coverage"]).passed


def test_what_stops_an_audit_of_some_part_is_told():
    target = target_of(SinglePrecisionOnly(), quick=True)
    assert "own precision with its own weights (in fp64: TypeError: a kernel for fp32 only)" in target.note
    assert target.lacks("loss") == "its loss skips no target, neither -100 nor -1: IndexError: no such target"


def test_a_large_model_of_16_bits_is_audited_in_fp32(monkeypatch):
    monkeypatch.setattr("litmus.auditing.adapters.module.MAX_CAST_WEIGHTS", 1000)
    model = GPT().bfloat16()
    target = target_of(model, quick=True)
    assert target.note == "audited in fp32 with its own weights, tolerance 1e-04"
    assert "weights are left as they are" in target.lacks("weights")
    assert target.model(target.tokens(1, 5)).dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_what_is_no_model_is_bad_input():
    with pytest.raises(BadInput, match="int is no model"):
        target_of(3, quick=True)


@pytest.fixture
def file(tmp_path):
    """A file that builds a GPT which it imports from the file beside it."""
    (tmp_path / "small_gpt_of_mine.py").write_bytes(SMALL.read_bytes())
    path = tmp_path / "model.py"
    path.write_text(
        "from small_gpt_of_mine import GPT\n\n\ndef build():\n    return GPT()\n\n\n"
        "class Leaking(GPT):\n    def __init__(self):\n        super().__init__(peek=1)\n\n\n"
        "def wrong():\n    return 3\n"
    )
    return path


def test_a_file_with_a_function_or_a_class_is_audited(file, capsys):
    assert exit_code("audit", f"{file}:build", "--quick", "--only", "causality", "--limit", "300") == 0
    assert "quick audit of model.py:build" in capsys.readouterr().out
    assert exit_code("audit", f"{file}:Leaking", "--quick", "--only", "causality", "--limit", "300") == 1
    assert "sees the future" in capsys.readouterr().err


def test_a_file_that_gives_no_module_is_bad_input(file, capsys):
    for name, said in (
        ("wrong", "wrong() of {} gives a int; an nn.Module is expected"),
        ("missing", "{} defines no missing; it defines GPT, build, Leaking, wrong"),
    ):
        assert exit_code("audit", f"{file}:{name}", "--quick") == 2
        assert said.format(file) in capsys.readouterr().err
    assert exit_code("audit", f"{file.with_name('none.py')}:build") == 2
    assert "there is no file" in capsys.readouterr().err


def test_keys_of_a_recipe_are_refused_for_a_model_that_is_built(file, capsys):
    assert exit_code("audit", f"{file}:build", "--set", "dim=64") == 2
    assert "size and keys belong to recipes" in capsys.readouterr().err


class Shifting(GPT):
    """A token shift before the layers, whose state `_reorder_cache` may leave in place."""

    keeps_state = True

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(32, 32, batch_first=True)

    def forward(self, idx, targets=None, past=None):
        hidden, shift = (None, None) if past is None else past
        x = self.wte(idx)
        before = torch.cat((x.new_zeros(len(x), 1, 32) if shift is None else shift, x[:, :-1]), 1)
        y, state = self.rnn(x + 0.5 * before, hidden)
        return {"logits": self.lm_head(y), "past": (state, x[:, -1:])}

    def _reorder_cache(self, past, rows):
        return past[0][:, rows], past[1] if self.keeps_state else past[1][rows]


def test_a_models_own_reordering_of_its_cache_is_tried(monkeypatch):
    finding = litmus.audit(Shifting(), quick=True, only=("cache parity",))["cache parity"]
    assert finding.status == "fail" and "after rows were repeated and dropped" in finding.detail
    monkeypatch.setattr(Shifting, "keeps_state", False)
    assert litmus.audit(Shifting(), quick=True, only=("cache parity",)).passed
