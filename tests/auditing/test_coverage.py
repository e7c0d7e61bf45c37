"""Coverage: what training, evaluation or the model itself leaves out."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import litmus
from litmus.auditing import audit
from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.checks.coverage import evaluate_exact
from litmus.model import resolve
from litmus.nn import Attention, AuxLosses, Batch, Loss, Objective, share_of_step, with_aux_losses
from litmus.nn.core.batch import IGNORED
from litmus.nn.layers.feedforwards import Swiglu, SwigluConfig
from litmus.nn.moe.routers import SigmoidRouter
from litmus.training.evaluation import evaluate
from tests.auditing.small_gpt import GPT

ONLY = ("coverage",)


def only(batch, chosen):
    """The batch with targets where `chosen` (T,) only."""
    return replace(batch, targets=batch.targets.masked_fill(~chosen, IGNORED))


def every_fourth(batch, phase):
    return only(batch, torch.arange(batch.targets.shape[1]) % 4 == phase)


class OnePhase(Objective):
    """Trains every fourth position, uses all."""

    def forward(self, model, batch, label_smoothing=0.0):
        return super().forward(model, every_fourth(batch, 3), label_smoothing)


class AllPhases(Objective):
    """Trains every fourth position, at a phase drawn anew each time: sound."""

    def forward(self, model, batch, label_smoothing=0.0):
        phase = int(torch.randint(4, ()))
        return super().forward(model, every_fourth(batch, phase), label_smoothing)


def test_positions_that_never_get_a_loss_are_counted_and_named(small, objective):
    finding = small(only=ONLY, objective=objective(OnePhase))["coverage"]
    assert finding.mark == "predicts at positions it never trained" and finding.measured == 0.75
    assert finding.detail.startswith("training puts a loss on 5 of 20 positions: positions 3, 7, 11, ..., every 4th")


def test_positions_that_are_drawn_at_random_are_covered_in_expectation(small, objective):
    report = small(only=ONLY, objective=objective(AllPhases))
    assert report.passed and "in some random pass" in report["coverage"].detail


class OftenAtOnePhase(Objective):
    """Trains every fourth position in each pass, and one of the three others beside it."""

    def forward(self, model, batch, label_smoothing=0.0):
        phase = int(torch.randint(3, ()))
        chosen = torch.isin(torch.arange(batch.targets.shape[1]) % 4, torch.tensor([phase, 3]))
        return super().forward(model, only(batch, chosen), label_smoothing)


def test_positions_trained_much_more_often_than_their_neighbours_are_a_warning(small, objective):
    report = small(only=ONLY, objective=objective(OftenAtOnePhase))
    assert report.passed and report["coverage"].status == "warning"
    assert "training scores position 15 in all of 12 passes and position" in report["coverage"].detail
    assert "of 20" in report["coverage"].where


class OtherOffsets(Attention):
    """What training computes at a position reads the memory at one offset, what is used reads it at another."""

    def forward(self, x, ctx):
        return super().forward(x, ctx) * (2.0 if self.training else 1.0)


def test_predictions_that_training_never_scores_are_caught(small, mixer):
    assert small(only=ONLY, mixer=mixer(OtherOffsets)).mark() == "fails audit: predicts in ways it never trained"


class Weighted(Objective):
    """Half the loss, and a term that no target enters: the predictions it trains are the ones that are used."""

    def forward(self, model, batch, label_smoothing=0.0):
        loss = super().forward(model, batch, label_smoothing)
        size = share_of_step("size", model.hidden(batch).square().mean(), torch.tensor(batch.targets.numel()))
        return Loss(0.5 * loss.total + 0.01 * size, {"half": 0.5 * loss.total, "size": size})


def test_weights_and_terms_without_targets_are_no_fault(small, objective):
    assert small(only=ONLY, objective=objective(Weighted)).passed


class TwiceTheSame(Objective):
    def forward(self, model, batch, label_smoothing=0.0):
        loss = super().forward(model, batch, label_smoothing)
        return Loss(1.3 * loss.total, {**loss.parts, "ahead": super().forward(model, batch, label_smoothing).total})


def test_a_term_that_repeats_the_main_one_is_caught(small, objective):
    finding = small(only=ONLY, objective=objective(TwiceTheSame))["coverage"]
    assert finding.mark == "counts the next-token loss twice" and "'ahead'" in finding.detail


def test_tokens_predicted_further_ahead_are_no_repetition(small):
    assert small(only=ONLY, objective={"kind": "mtp", "depth": 2}).passed
    assert small(only=ONLY, objective={"kind": "mtp_parallel", "depth": 2}).passed


class MeanOfRows(Objective):
    """Each row weighs the same, however many of its targets are scored."""

    def forward(self, model, batch, label_smoothing=0.0):
        rows = [super(MeanOfRows, self).forward(model, row, label_smoothing).total for row in rows_of(batch)]
        return Loss(torch.stack(rows).mean(), {})


def rows_of(batch):
    return [Batch(tokens[None], targets[None]) for tokens, targets in zip(batch.tokens, batch.targets, strict=True)
            if bool((targets != IGNORED).any())]  # fmt: skip


def test_a_mean_over_rows_is_no_mean_over_tokens(small, objective):
    finding = small(only=ONLY, objective=objective(MeanOfRows))["coverage"]
    assert finding.mark == "has a loss that is no mean over the scored targets"
    assert "of two rows with 16 and 5 scored targets" in finding.detail


class Flattering(Objective):
    """Scores at a lower temperature than the model predicts with."""

    def token_losses(self, model, batch):
        return 0.9 * super().token_losses(model, batch)


class ForgetsTheEnd(Objective):
    """Leaves out the last position of each row."""

    def token_losses(self, model, batch):
        return super().token_losses(model, batch) * (torch.arange(batch.tokens.shape[1]) < 49)


@pytest.mark.parametrize(
    ("wrong", "mark"),
    [
        (Flattering, "is scored on something other than its predictions"),
        (ForgetsTheEnd, "is scored on some tokens only"),
    ],
)
def test_a_score_that_is_not_the_models_own_over_all_targets_is_caught(small, objective, wrong, mark):
    assert small(objective=objective(wrong))["coverage"].mark == mark


def test_an_evaluation_of_a_part_of_the_held_out_text_is_caught():
    target = DecoderTarget(
        resolve("standard", overrides={"dim": 32, "heads": 2, "depth": 1, "vocab_size": 61}), quick=True
    )

    def sliver(model, data, **options):
        return evaluate(model, data, **options, limit_tokens=60)

    (whole,), (part,) = evaluate_exact(target), evaluate_exact(target, sliver)
    assert not whole.fault
    assert part.fault and part.what == "evaluation counts 54 of 126 held-out tokens"


class IdlePart(Swiglu):
    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        self.spare = nn.Linear(layer_context.dim, layer_context.dim)


class DeadUnits(Swiglu):
    """A quarter of the hidden units is masked out."""

    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)

    def forward(self, x, ctx):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * up * (torch.arange(64) < 48))


def test_a_model_with_a_parameter_that_nothing_uses_fails_this_check_alone(small, feedforward):
    report = small(
        feedforward=feedforward(lambda config, layer_context: IdlePart(SwigluConfig(hidden=64), layer_context))
    )
    assert [finding.name for finding in report.failed] == ["coverage"]
    assert report.mark() == "fails audit: has parameters that never train"
    assert report["coverage"].where == "layers.0.feedforward.spare.weight"


def test_dead_units_are_counted(small, feedforward):
    finding = small(
        only=ONLY,
        feedforward=feedforward(lambda config, layer_context: DeadUnits(SwigluConfig(hidden=64), layer_context)),
    )["coverage"]
    assert finding.mark == "has dead units"
    assert finding.detail.startswith("32 of 128 units (experts, rows) of layers.0.feedforward.gate_up.weight")


def test_experts_that_never_get_a_token_are_named(small, monkeypatch):
    from litmus.nn.moe.routers import SoftmaxRouter

    monkeypatch.setattr(
        SoftmaxRouter,
        "scores",
        lambda self, x: (x @ self.weight.T) - 1e3 * (torch.arange(len(self.weight)) == 2),
    )
    finding = small(only=ONLY, feedforward={"kind": "moe", "experts": 4, "top_k": 2})["coverage"]
    assert finding.mark == "has dead units" and finding.where.endswith("units 2")


class BurnIn(Objective):
    """The first 32 targets of texts of more than 96 tokens are not trained."""

    def forward(self, model, batch, label_smoothing=0.0):
        early = torch.arange(batch.targets.shape[1]) < (32 if batch.targets.shape[1] > 96 else 0)
        batch = replace(batch, targets=batch.targets.masked_fill(early, -100))
        return super().forward(model, batch, label_smoothing)


def test_targets_that_only_long_texts_leave_untrained_are_found(small, objective):
    finding = small(only=ONLY, context=160, objective=objective(BurnIn))["coverage"]
    assert finding.status == "fail" and "position 0 of 130 never has a loss" in finding.where


class MeanOfChunks(Objective):
    """Each chunk of 16 positions weighs by all of its targets, scored or not."""

    def forward(self, model, batch, label_smoothing=0.0):
        hidden = model.hidden(batch)
        losses, sizes = [], []
        for h, targets in zip(hidden.split(16, 1), batch.targets.split(16, 1), strict=True):
            if bool((targets != IGNORED).any()):
                logits = model.head(h).flatten(0, 1)
                losses.append(F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED) * targets.numel())
                sizes.append(targets.numel())
        nats = torch.stack(losses).sum() / sum(sizes) if sizes else hidden.sum() * 0
        return Loss(nats, {"next_token": nats})


def test_a_mean_over_chunks_is_no_mean_over_tokens(small, objective):
    finding = small(only=ONLY, objective=objective(MeanOfChunks))["coverage"]
    assert finding.mark == "has a loss that is no mean over the scored targets"


class NotShared(Objective):
    """A further term that is no share of the step's mean."""

    def forward(self, model, batch, label_smoothing=0.0):
        loss = super().forward(model, batch, label_smoothing)
        return Loss(loss.total + model.hidden(batch).square().mean(), loss.parts)


class Miscounts(Objective):
    def counts(self, batch):
        return {"next_token": torch.tensor(batch.targets.numel())}


@pytest.mark.parametrize("changed", [NotShared, Miscounts])
def test_a_loss_that_depends_on_how_a_step_is_split_is_found(small, objective, changed):
    finding = small(only=ONLY, objective=objective(changed))["coverage"]
    assert finding.mark == "has another loss in micro-batches"


def test_a_router_whose_hook_gathers_the_tokens_is_found(small, monkeypatch):
    parts = {"feedforward": {"kind": "moe", "experts": 4, "top_k": 2, "router": {"kind": "sigmoid", "bias_rate": 0.01}}}
    assert small(only=ONLY, **parts).passed
    right = SigmoidRouter.post_optimizer_step

    def wrong(self):
        before = self.bias.clone()
        right(self)
        self.bias.copy_(2 * before - self.bias)

    monkeypatch.setattr(SigmoidRouter, "post_optimizer_step", wrong)
    assert small(only=ONLY, **parts)["coverage"].mark == "unbalances its experts"


class MoreTokensAhead(GPT):
    """A second term in training only, over targets that follow a scored one."""

    def forward(self, idx, targets=None):
        logits, loss = super().forward(idx, targets)
        if targets is not None and self.training:
            further = targets[:, 1:].masked_fill(targets[:, :-1] == -1, -1)
            ahead = F.cross_entropy(logits[:, :-1].flatten(0, 1), further.flatten(), ignore_index=-1, reduction="sum")
            loss = loss + 0.3 * ahead / (further != -1).sum().clamp(min=1)
        return logits, loss


def test_a_further_term_in_training_is_no_wrong_mean():
    assert litmus.audit(MoreTokensAhead(), quick=True, only=ONLY).passed


class PenaltyOfAllTokens(Objective):
    """A small term over the hidden states of all tokens, scored or not."""

    def forward(self, model, batch, label_smoothing=0.0):
        loss = super().forward(model, batch, label_smoothing)
        size = 0.01 * model.hidden(batch).square().mean()
        size = share_of_step("size", size, torch.tensor(batch.targets.numel()))
        return Loss(loss.total + size, {**loss.parts, "size": size})


def test_tokens_that_are_not_scored_but_enter_the_loss_are_a_warning(small, objective):
    finding = small(only=ONLY, objective=objective(PenaltyOfAllTokens))["coverage"]
    assert finding.status == "warning" and "with other tokens after them" in finding.detail
    assert small(only=ONLY)["coverage"].status == "pass"


class DropsLayers(GPT):
    """Stochastic depth of two layers, whose masks are often the same in two passes."""

    def hidden(self, idx):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.h:
            keep = (torch.rand(len(x), 1, 1) < 0.8).to(x.dtype) / 0.8 if self.training else 1.0
            x = x + keep * (block(x) - x)
        return self.ln_f(x)


def test_layers_that_are_dropped_in_some_passes_only_are_no_untrained_prediction():
    torch.manual_seed(0)
    assert litmus.audit(DropsLayers(), quick=True, only=ONLY).passed


class PricedGate(Swiglu):
    """A gate for each token, and a price for what passes, over the tokens that are `counted`."""

    weight = 0.1

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.gate = nn.Linear(layer.dim, 1)

    def counted(self, ctx):
        return ctx.aux_losses.counted

    def price(self, g, counted):
        return (g[..., 0] * counted).sum() / counted.sum().clamp(min=1)

    def forward(self, x, ctx):
        g = self.gate(x).sigmoid()
        if self.training and ctx.aux_losses is not None:
            ctx.aux_losses.add("price", self.price(g, self.counted(ctx)), self.weight)
        return g * super().forward(x, ctx)


class RewardedGate(PricedGate):
    """What passes is rewarded: a term with a negative weight."""

    weight = -0.1


class PriceOfAllTokens(PricedGate):
    def counted(self, ctx):
        return torch.ones_like(ctx.aux_losses.counted)


class PriceWithoutGradient(PricedGate):
    def price(self, g, counted):
        return super().price(g.detach(), counted)


@pytest.mark.parametrize(
    ("changed", "mark"),
    [
        (PricedGate, None),
        (RewardedGate, None),
        (PriceOfAllTokens, "has a loss term over tokens that are not scored"),
        (PriceWithoutGradient, "has auxiliary losses of its layers with other weights than they state"),
    ],
)
def test_what_layers_add_to_the_loss_is_a_mean_over_counted_tokens_and_has_a_gradient(small, changed, mark):
    finding = small(only=ONLY, feedforward=changed)["coverage"]
    assert (finding.status, finding.mark) == (("fail", mark) if mark else ("pass", ""))


class TwoPasses(Objective):
    """The mean of two passes, whose layers both leave their terms, of which `share` is taken."""

    share = 1.0

    def forward(self, model, batch, label_smoothing=0.0):
        terms, targets = AuxLosses.before(batch), batch.targets.flatten()
        passes = [model.head(model.hidden(batch, aux_losses=terms)).flatten(0, 1) for _ in range(2)]
        count = (targets != IGNORED).sum().clamp(min=1)
        nats = sum(F.cross_entropy(logits, targets, reduction="sum") for logits in passes) / (2 * count)
        halved = {
            name: [(self.share * weight, value) for weight, value in added] for name, added in terms.values.items()
        }
        return with_aux_losses(Loss(nats, {"next_token": nats}), replace(terms, values=halved))


class MeanOfTwoPasses(TwoPasses):
    share = 0.5


def test_what_layers_add_to_the_loss_is_taken_once(small, objective):
    experts = {"kind": "moe", "experts": 4, "top_k": 2}
    finding = small(only=ONLY, feedforward=experts, objective=objective(TwoPasses))["coverage"]
    assert "takes the loss 'balance' that layers add 2 times" in finding.detail
    assert small(only=ONLY, feedforward=experts, objective=objective(MeanOfTwoPasses)).passed
    assert audit("worker", only=ONLY, quick=True, overrides={"feedforward": experts}).passed
