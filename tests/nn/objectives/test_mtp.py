"""Multi-token prediction: what is predicted from what, what is scored, and that the model itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from litmus.errors import BadInput
from litmus.model import Decoder, build
from litmus.nn import Batch, reference_path
from litmus.nn.objectives.mtp import targets_ahead

VOCABULARY, LENGTH = 61, 10
SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "dim": 32, "depth": 2, "heads": 4, "context": 24}
KINDS = ["mtp", "mtp_parallel"]


def made(kind: str, base: str = "standard", depth: int = 2, **changes: Any) -> Decoder:
    return build(base, objective={"kind": kind, "depth": depth, "weight": 0.6}, **{**SMALL, **changes})


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (2, LENGTH + 3))


def vectors_ahead(model: Decoder, tokens: Tensor, number: int) -> Tensor:
    """What the head reads to predict t_{i+number+1} at each place i, of one row by itself and by the formula."""
    objective: Any = model.objective
    h = model.hidden(tokens[None])
    if model.recipe.objective.kind == "mtp_parallel":
        return (h + F.silu(objective.maps[number - 1](h)))[0]
    for k in range(1, number + 1):
        module = objective.mtp_layers[k - 1]
        embedded = model.embedding(tokens[None, k:])
        h = h[:, : embedded.shape[1]]
        joined = module.join(torch.cat((module.hidden_norm(h), module.embedding_norm(embedded)), -1))
        h = module.layer(joined, model.forward_context(tokens[None, : joined.shape[1]]))
        vectors = module.norm(h)
        h = F.pad(h, (0, 0, 0, k))[:, : h.shape[1]]
    return vectors[0]


def expected_nats(model: Decoder, row: Tensor, number: int, targets: Tensor) -> Tensor:
    """Nats (T - number,) of the targets `number` places further on."""
    logits = model.head(vectors_ahead(model, row, number)[: len(row) - number])
    return F.cross_entropy(logits, targets[number:], reduction="none")


@pytest.mark.parametrize("base", ["standard", "mla", "ssmax-nope"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_tokens_further_ahead(
    kind: str, base: str, tokens: Tensor, rough: Callable[..., Decoder]
) -> None:
    model = rough(made(kind, base))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    loss = model.loss(inputs, targets)
    assert list(loss.parts) == ["next_token", "mtp_1", "mtp_2"]
    for number in (1, 2):
        nats = [expected_nats(model, row, number, aims) for row, aims in zip(inputs, targets, strict=True)]
        assert_close(loss.parts[f"mtp_{number}"], torch.cat(nats).mean())
    assert_close(loss.parts["next_token"], model.token_losses(inputs, targets).mean())
    assert_close(loss.total, loss.parts["next_token"] + 0.6 / 2 * (loss.parts["mtp_1"] + loss.parts["mtp_2"]))


@pytest.mark.parametrize("kind", KINDS)
def test_targets_that_are_not_scored_are_not_scored_further_ahead(
    kind: str, tokens: Tensor, rough: Callable[..., Decoder]
) -> None:
    model = rough(made(kind, depth=1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[0, 3:6], targets[1, -1] = -100, -100
    nats = [expected_nats(model, row, 1, aims) for row, aims in zip(inputs, targets, strict=True)]
    scored = torch.cat([targets[0, 1:], targets[1, 1:]]) != -100
    assert_close(model.loss(inputs, targets).parts["mtp_1"], torch.cat(nats)[scored].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_predicted_across_the_end_of_an_isolated_document(
    kind: str, tokens: Tensor, rough: Callable[..., Decoder]
) -> None:
    model = rough(made(kind))
    inputs, targets, lengths = tokens[:1, :-1], tokens[:1, 1:], [5, 1, 2, 4]
    documents = torch.arange(4).repeat_interleave(torch.tensor(lengths))[None]
    loss = model.loss(Batch(inputs, targets, documents))
    parts = zip(inputs[0].split(lengths), targets[0].split(lengths), strict=True)
    alone = [(document, aims) for document, aims in parts]
    for number in (1, 2):
        nats = [expected_nats(model, row, number, aims) for row, aims in alone if len(row) > number]
        assert_close(loss.parts[f"mtp_{number}"], torch.cat(nats).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_rows_shorter_than_the_view_ahead_have_nothing_to_lose(kind: str, length: int) -> None:
    model = made(kind, depth=3)
    tokens = torch.randint(VOCABULARY, (2, length))
    parts = model.loss(tokens, tokens).parts
    assert [name for name, value in parts.items() if value > 0] == ["next_token", "mtp_1", "mtp_2", "mtp_3"][:length]
    assert model.loss(tokens, tokens).total.isfinite()


def test_targets_ahead_end_with_their_row_and_document() -> None:
    targets = torch.tensor([[1, 2, 3, 4, 5], [6, -100, 8, 9, 10]])
    batch = Batch(targets, targets)
    assert targets_ahead(batch, 1).tolist() == [[2, 3, 4, 5, -100], [-100, 8, 9, 10, -100]]
    assert targets_ahead(batch, 3).tolist() == [[4, 5, -100, -100, -100], [9, 10, -100, -100, -100]]
    assert (targets_ahead(batch, 7) == -100).all()
    documents = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 2, 2, 2]])
    packed = targets_ahead(Batch(targets, targets, documents), 1)
    assert packed.tolist() == [[2, -100, 4, 5, -100], [-100, -100, 9, 10, -100]]


@pytest.mark.parametrize("kind", KINDS)
def test_no_prediction_ahead_reads_the_token_it_predicts(
    kind: str, tokens: Tensor, rough: Callable[..., Decoder]
) -> None:
    model = rough(made(kind))
    inputs, vectors = tokens[:1, :LENGTH], []

    def keep(module: Any, arguments: Any, output: Tensor) -> Tensor:
        vectors.append(output.detach().requires_grad_())
        return vectors[-1]

    for number, place in ((1, 4), (2, 4), (1, 0), (2, 7)):
        targets = torch.full((1, LENGTH), -100)
        targets[0, place + number] = 3  # scored by the module that stands at `place`
        vectors.clear()
        with model.embedding.register_forward_hook(keep):
            nats = model.loss(inputs, targets).parts[f"mtp_{number}"]
        reached = torch.zeros(LENGTH + number, dtype=torch.bool)
        for k, gradient in enumerate(torch.autograd.grad(nats, vectors, allow_unused=True)):
            if gradient is not None:
                reached[k : k + LENGTH] |= gradient[0].abs().amax(-1) > 0
        own = place + number if kind == "mtp" else place
        assert reached.nonzero()[:, 0].tolist() == list(range(own + 1))


@pytest.mark.parametrize("base", ["standard", "deepseek", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_adding_it_changes_neither_the_weights_nor_the_logits_of_the_model(
    kind: str, base: str, tokens: Tensor
) -> None:
    plain = build(base, objective={"kind": "next_token"}, **SMALL)
    model = made(kind, base)
    state = model.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in plain.state_dict().items())
    assert {name.split(".")[0] for name in state.keys() - plain.state_dict().keys()} == {"objective"}
    plain.eval(), model.eval()
    assert torch.equal(model(tokens), plain(tokens))
    assert torch.equal(model.token_losses(tokens, tokens), plain.token_losses(tokens, tokens))
    assert model.kv_elements(24) == plain.kv_elements(24)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_the_shared_embedding_head_and_layers(kind: str, tokens: Tensor) -> None:
    model = made(kind, head={"tied": False})
    part = model.loss(tokens, tokens).parts["mtp_1"]
    shared = [model.embedding.weight, model.head.weight, model.layers[0].mixer.qkv.weight]
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(part, shared))


def test_a_module_is_made_like_the_last_layer_and_leaves_its_own_balance(tokens: Tensor) -> None:
    model = build("deepseek", **SMALL)
    module: Any = model.objective.mtp_layers[0]  # type: ignore[union-attr, index]
    shapes = {name: p.shape for name, p in module.layer.named_parameters()}
    assert shapes == {name: p.shape for name, p in model.layers[-1].named_parameters()}
    assert not any(p is q for p in module.layer.parameters() for q in model.layers[-1].parameters())
    loss = model.loss(tokens, tokens)
    parts = loss.parts["next_token"] + 0.3 * loss.parts["mtp_1"] + 1e-4 * 2 * loss.parts["balance"]
    assert_close(loss.total, parts, rtol=1e-7, atol=0)
    loads = [m.load.sum().item() for m in model.modules() if hasattr(m, "load")]
    assert loads == [4 * tokens.numel(), 4 * (tokens.numel() - len(tokens))], "the last place of a row looks nowhere"


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_gradient_equals_the_reference(kind: str, tokens: Tensor, rough: Callable[..., Decoder]) -> None:
    model = rough(made(kind, "deepseek"))
    found = []
    for fast in (True, False):
        with reference_path(not fast):
            total = model.loss(tokens, tokens, label_smoothing=0.1).total
        found.append([total, *torch.autograd.grad(total, list(model.parameters()))])
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"kind": "mtp", "depth": 0}, "depth = 0 is not valid"),
        ({"kind": "mtp", "weight": 0}, "weight = 0 is not valid"),
        ({"kind": "mpt"}, "unknown objective kind 'mpt'; did you mean 'mtp'"),
    ],
)
def test_what_cannot_be_predicted_is_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        build("standard", objective=keys, **SMALL)
