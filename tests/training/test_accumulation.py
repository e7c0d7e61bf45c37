"""The loss of a step is the mean over what it scores, and its gradient that of one large batch, whatever the split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.data.sampler import SampledBatch
from litmus.model import Decoder, build
from litmus.nn import FeedforwardConfig, ForwardContext, LayerContext, Loss, Objective, ObjectiveConfig
from litmus.nn.core.aux_losses import AuxLosses
from litmus.nn.objectives.objective import with_aux_losses
from litmus.training import TrainSettings
from litmus.training.train_step import TrainStep

ROWS, LENGTH, END = 6, 14, 7
SHRUNK: dict[str, Any] = {"dim": 16, "depth": 3, "heads": 2, "context": LENGTH, "dropout": 0.0}
WAYS: dict[str, Any] = {
    "mtp_parallel": {"base": "standard", "objective": {"kind": "mtp_parallel", "depth": 3}},
    "mtp far ahead": {"base": "mtp", "objective": {"depth": 2, "weight": 0.7}},
    "mtp of experts": {"base": "moe", "objective": {"kind": "mtp", "depth": 2}},
    "softmax experts": {"base": "moe", "feedforward": {"router": {"balance": 0.5}}},
    "softmax_v2 experts": {"base": "moe", "feedforward": {"router": {"kind": "softmax_v2", "balance": 0.5}}},
    "sigmoid experts": {"base": "moe-v3", "feedforward": {"router": {"balance": 0.5}}},
    "published mixture of depths": {"base": "mod", "block": {"selection": "topk", "predictor_weight": 0.5}},
    "experts within a mixture of depths": {"base": "moe", "block": {"kind": "mod", "capacity": 0.4}},
    "workers in a fixed place": {"base": "worker", "block": {"phase": "fixed"}},
    "workers alone": {"base": "worker", "objective": {"queries": 0}},
}
Split = Sequence[Sequence[int]]


def stepper(recipe: Any, rough: Callable[..., Decoder], **options: Any) -> TrainStep:
    model = rough(build(recipe, size="tiny", vocab_size=23, overrides=SHRUNK))
    return TrainStep(model, TrainSettings(**options), "fp32", END)


def batch_of(rows: Sequence[int], unscored: Tensor) -> SampledBatch:
    """Rows by number, each always the same; `unscored` (ROWS, LENGTH) says which targets are left out."""
    tokens = torch.randint(23, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(5))
    index = torch.tensor(rows)
    return SampledBatch(tokens[index, :-1], tokens[index, 1:].masked_fill(unscored[index], -100), list(rows))


def accumulated(over: TrainStep, split: Split, unscored: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
    torch.manual_seed(3)
    for parameter in over.weights.named.values():
        parameter.grad = None
    losses = over.accumulate([batch_of(rows, unscored) for rows in split])
    return {name: float(value) for name, value in losses.items()}, dict(over.weights.gradients())


def same_as_one_batch(over: TrainStep, split: Split, unscored: Tensor) -> None:
    losses, gradients = accumulated(over, [[row for rows in split for row in rows]], unscored)
    for _ in range(2):  # the first step finds out what has to be counted, the second knows
        parts, summed = accumulated(over, split, unscored)
        assert parts == pytest.approx(losses, rel=1e-6, abs=1e-9)
        assert summed.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(summed[name], gradient, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def some_unscored() -> Tensor:
    """One row with nothing scored, one with a few targets, one with padding at its end."""
    unscored = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    unscored[2], unscored[3, :10], unscored[5, 9:] = True, True, True
    return unscored


@pytest.mark.parametrize("isolate_documents", [False, True])
def test_accumulated_gradients_of_every_recipe_are_those_of_one_batch(
    distinct_recipe: str, isolate_documents: bool, rough: Callable[..., Decoder]
) -> None:
    over = stepper(distinct_recipe, rough, isolate_documents=isolate_documents)
    same_as_one_batch(over, [[0, 1, 4], [2], [3, 5]], some_unscored())


@pytest.mark.parametrize("way", WAYS)
def test_accumulated_gradients_of_every_objective_and_router_are_those_of_one_batch(
    way: str, rough: Callable[..., Decoder]
) -> None:
    over = stepper(WAYS[way], rough, isolate_documents=True, label_smoothing=0.2)
    same_as_one_batch(over, [[4], [0, 2, 1], [3, 5]], some_unscored())


@pytest.mark.parametrize("way", ["mtp far ahead", "softmax experts", "workers in a fixed place"])
def test_any_split_gives_the_gradient_of_one_batch(way: str, rough: Callable[..., Decoder]) -> None:
    over = stepper(WAYS[way], rough, isolate_documents=True)

    @settings(max_examples=5)
    @given(st.data())
    def any_split(data: st.DataObject) -> None:
        rows = data.draw(st.permutations(range(ROWS)))
        cuts = sorted(data.draw(st.sets(st.integers(1, ROWS - 1), min_size=1)))
        split = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, ROWS], strict=True)]
        ends = data.draw(st.lists(st.integers(0, LENGTH), min_size=ROWS, max_size=ROWS))
        unscored = torch.arange(LENGTH)[None] >= torch.tensor(ends)[:, None]
        same_as_one_batch(over, split, unscored)

    any_split()


def test_a_step_with_nothing_scored_has_a_loss_of_0_and_no_gradient(
    distinct_recipe: str, rough: Callable[..., Decoder]
) -> None:
    over = stepper(distinct_recipe, rough)
    for split in ([[0, 1, 2]], [[0], [1, 2]]):
        losses, gradients = accumulated(over, split, torch.ones(ROWS, LENGTH, dtype=torch.bool))
        assert set(losses.values()) == {0.0}
        assert all((gradient == 0).all() for gradient in gradients.values())


def test_counting_leaves_no_trace(rough: Callable[..., Decoder]) -> None:
    over = stepper(WAYS["sigmoid experts"], rough)
    model = over._model
    accumulated(over, [[0, 1], [2, 3]], some_unscored())
    two = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.layers[0].feedforward.router.load.zero_()  # type: ignore[union-attr, operator]
    over.accumulate([batch_of([0, 1], some_unscored())])
    over.accumulate([batch_of([2, 3], some_unscored())])
    load = "layers.0.feedforward.router.load"
    assert torch.equal(two[load], model.get_buffer(load))


def test_the_threshold_of_a_mixture_of_depths_follows_all_batches_by_their_tokens(
    rough: Callable[..., Decoder],
) -> None:
    over = stepper("mod", rough)
    router: Any = over._model.layers[1].router  # type: ignore[union-attr]
    accumulated(over, [[0, 1], [2], [3, 4, 5]], some_unscored())
    assert router.tokens == 4 * LENGTH + 9  # a row with nothing scored counts nowhere, padding at a row's end neither


class UnsharedConfig(ObjectiveConfig):
    kind: Literal["unshared_test"] = "unshared_test"

    def build(self, layer_context: LayerContext) -> Objective:
        return Unshared()


class Unshared(Objective):
    """As a plug-in may write it: plain means over what is scored, and nothing said of steps."""

    def forward(self, model: Any, batch: Any, label_smoothing: float = 0.0) -> Loss:
        targets = batch.scored_targets
        terms = AuxLosses.before(targets)
        logits = model.head(model.hidden(batch, aux_losses=terms)).flatten(0, 1)
        nats = F.cross_entropy(logits, targets.flatten(), reduction="sum") / (targets != -100).sum().clamp(min=1)
        return with_aux_losses(Loss(nats, {"next_token": nats}), terms)


class LeavingConfig(FeedforwardConfig):
    kind: Literal["leaving_test"] = "leaving_test"

    def build(self, layer_context: LayerContext) -> nn.Module:
        return Leaving(layer_context.dim)


class Leaving(nn.Module):
    """A plug-in's layer that adds the mean of its squared outputs to the loss."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        y = self.map(x)
        if ctx.aux_losses is not None:
            counted = ctx.aux_losses.counted
            size = (y.square().mean(-1) * counted).sum() / counted.sum().clamp(min=1)
            ctx.aux_losses.add("size", size, 0.3)
        return y


@pytest.mark.parametrize("feedforward", ["swiglu", "leaving_test"])
def test_plain_means_of_a_plug_in_are_weighed_by_what_they_are_over(
    feedforward: str, rough: Callable[..., Decoder]
) -> None:
    recipe = {"base": "standard", "objective": {"kind": "unshared_test"}, "feedforward": {"kind": feedforward}}
    same_as_one_batch(stepper(recipe, rough), [[0, 1, 4], [2], [3, 5]], some_unscored())
