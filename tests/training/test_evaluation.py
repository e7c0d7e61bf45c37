import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from litmus.data import TokenData
from litmus.data.tokens.tokenizer import Tokenizer
from litmus.diagnostics import layer_stats
from litmus.errors import BadInput
from litmus.model import build
from litmus.training import evaluation
from litmus.training.display import evaluation_table
from litmus.training.evaluation import Evaluation, evaluate, tokens_within


class MadeUp(Tokenizer):
    """Token i has `token_bytes[i]` bytes; the last one ends documents."""

    def __init__(self, token_bytes):
        super().__init__("made up", [b"x" * count for count in token_bytes], eos_id=len(token_bytes) - 1)

    def encode_batch(self, texts, continuing=None):
        raise AssertionError("these tests begin with tokens")


def held_out(tokens, token_bytes):
    stream = np.array(tokens, dtype=np.uint16)
    return TokenData(stream, stream, MadeUp(token_bytes), "", {})


@pytest.fixture
def model(recipe):
    return build(recipe, vocab_size=257)


def by_hand(model, tokens, context):
    """Nats of every token but the first, from the logits of non-overlapping windows."""
    model.eval()
    nats = []
    for start in range(0, len(tokens) - 1, context):
        window = torch.tensor(tokens[start : start + context + 1].astype(np.int64))[None]
        log_p = model(window[:, :-1]).double().log_softmax(-1)
        nats += (-log_p.gather(2, window[:, 1:, None])).flatten().tolist()
    model.train()
    return nats


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_score_is_over_every_held_out_token_once_whatever_the_batch(model, data, batch):
    nats = by_hand(model, data.held_out[:], 16)
    score = evaluate(model, data, context=16, batch=batch)
    assert score.tokens == len(data.held_out) - 1
    assert score.bytes == data.provenance["bytes"]["held_out"]
    assert score.nats_per_token == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / score.bytes, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-5)


def test_loss_by_position_is_the_mean_over_windows_at_each_place(model, data):
    nats = by_hand(model, data.held_out[:], 16)
    score = evaluate(model, data, context=16, batch=4)
    expected = [float(np.mean(nats[place::16])) for place in range(16)]
    assert score.loss_by_position == pytest.approx(expected, rel=1e-5)


def test_evaluation_ends_at_the_limit_in_tokens_or_bytes(model, data):
    nats = by_hand(model, data.held_out[:], 16)
    by_bytes = evaluate(model, data, context=16, batch=4, limit_bytes=50)
    # this tokenizer's tokens are bytes, and the first document is longer
    assert (by_bytes.tokens, by_bytes.nats_per_token) == (50, pytest.approx(sum(nats[:50]) / 50, rel=1e-5))
    windows = -(-len(nats) // 16)
    starts = [16 * ((2 * number + 1) * windows // 8) for number in range(4)]
    spread = [nats[place] for start in starts for place in range(start, start + 16)][:50]
    by_tokens = evaluate(model, data, context=16, batch=3, limit_tokens=50)
    assert (by_tokens.tokens, by_tokens.nats_per_token) == (50, pytest.approx(sum(spread) / 50, rel=1e-5))


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    tokens=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    limit=st.integers(1, 40),
)
def test_a_limit_in_bytes_takes_as_many_whole_tokens_as_fit(sizes, tokens, limit):
    tokens = [min(token, len(sizes) - 1) for token in tokens]
    stream = held_out([len(sizes), *tokens, len(sizes)], [*sizes, 0])
    lengths = [sizes[token] for token in tokens]
    fitting = sum(sum(lengths[: n + 1]) <= limit for n in range(len(lengths)))
    if not fitting:
        with pytest.raises(BadInput, match="less than the first held-out token"):
            tokens_within(stream, limit)
    else:
        end_token = fitting == len(tokens)  # the end token after the text has no bytes, so it fits too
        assert tokens_within(stream, limit) == fitting + end_token


def test_evaluation_changes_neither_the_mode_nor_the_random_state(model, data):
    before, state = model.training, torch.get_rng_state()
    first = evaluate(model, data, context=16, batch=4, limit_tokens=64)
    assert model.training is before is True
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluate(model, data, context=16, batch=4, limit_tokens=64) == first  # no dropout


def windows_of(data, rows, width=16):
    """That many windows, the first, the last and others evenly between them."""
    whole = data.held_out[: len(data.held_out) - len(data.held_out) % width].astype(np.int64).reshape(-1, width)
    return torch.from_numpy(whole[np.linspace(0, len(whole) - 1, rows).round().astype(int)])


def test_attention_entropy_is_that_of_each_layer_on_real_tokens(model, data):
    score = evaluate(model, data, context=16, batch=3, limit_tokens=64)
    model.eval()
    tokens = windows_of(data, 4)
    assert score.attention_entropy == pytest.approx(layer_stats(model, tokens).stats["attention_entropy"])
    assert len(score.attention_entropy) == 2


def test_other_figures_of_layers_are_kept_by_name(model, data):
    score = evaluate(model, data, context=16, batch=3, limit_tokens=64)
    model.eval()
    tokens = windows_of(data, 4)
    found = layer_stats(model, tokens).stats
    del found["attention_entropy"]
    assert set(found) == {"first_token_attention", "largest_activation"}
    assert score.layer_stats == {name: pytest.approx(values) for name, values in found.items()}


def test_figures_are_over_windows_from_all_over_the_text(model, data, monkeypatch):
    monkeypatch.setattr(evaluation, "STATS_TOKENS", 48)
    score = evaluate(model, data, context=16, batch=4)
    model.eval()
    tokens = windows_of(data, 3)
    assert score.attention_entropy == pytest.approx(layer_stats(model, tokens).stats["attention_entropy"])


def test_a_score_of_less_than_one_window_takes_entropy_over_its_tokens_only(model, data):
    score = evaluate(model, data, context=16, batch=4, limit_tokens=5)
    model.eval()
    tokens = torch.from_numpy(data.held_out[:5].astype(np.int64))[None]  # the first of many short windows
    assert score.attention_entropy == pytest.approx(layer_stats(model, tokens).stats["attention_entropy"])


def test_routing_is_that_of_whole_windows_and_absent_without_experts(model, data):
    assert evaluate(model, data, context=16, batch=4).routing is None
    routed = build("moe-v3", vocab_size=257, dim=32, depth=2, heads=2, context=16).eval()
    score = evaluate(routed, data, context=16, batch=6, limit_tokens=100)
    tokens = windows_of(data, 6)
    assert score.routing == layer_stats(routed, tokens).routing
    assert [len(layer.load) for layer in score.routing.values()] == [16, 16]
    assert Evaluation.model_validate_json(score.model_dump_json()) == score


def test_isolated_documents_are_scored_without_the_text_before_them(model):
    end = 256
    document = [end, *b"the cat sat on a mat"]
    stream = held_out([*document, *document, end], [1] * 256 + [0])
    apart = evaluate(model, stream, context=42, batch=1, isolate_documents=True).loss_by_position
    assert apart[:20] == pytest.approx(apart[21:41], rel=1e-5)
    together = evaluate(model, stream, context=42, batch=1).loss_by_position
    assert together[:20] != pytest.approx(together[21:41], rel=1e-5)


def test_scores_of_older_files_give_their_figures_to_the_layers_from_the_first(model, data):
    score = evaluate(model, data, context=16, batch=4, limit_tokens=64)
    older = score.model_dump(mode="json", exclude={"layer_stats"})
    older |= {"attention_entropy": [1.5, 2.5], "layer_figures": {"mean_gate": [0.5]}}
    read = Evaluation.model_validate(older)
    assert read.attention_entropy == {0: 1.5, 1: 2.5} and read.layer_stats == {"mean_gate": {0: 0.5}}


def test_figures_of_a_routed_model_are_printed_with_the_numbers_of_their_layers(data):
    routed = build("mod", vocab_size=257, dim=32, depth=4, heads=2, context=16).eval()
    score = evaluate(routed, data, context=16, batch=4, limit_tokens=64)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(evaluation_table(score))
    lines = {line.split("  ")[0]: line for line in console.export_text().splitlines()}
    assert lines["attention entropy"].rstrip().endswith("(nats, layers 1, 3)")
    assert lines["processed share"].rstrip().endswith("(layers 2, 4)")
    assert lines["largest activation"].rstrip().endswith("(layers 1 to 4)")
