"""A module's class in a recipe: options from its keywords, plain modules adapted, mistakes told in one sentence."""

from __future__ import annotations

from inspect import Parameter, Signature

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from litmus.errors import BadInput
from litmus.generation.speculative.drafts import check_supports_rollback
from litmus.model import build, load, resolve, save
from litmus.nn import Attention, Batch, Block, ForwardContext, Routing, recurrent_scan, reference_path, token_shifts

SMALL = {"vocab_size": 31, "dim": 16, "depth": 2, "heads": 2, "context": 24}


class Halves(nn.Module):
    """Half of what came before the token, by a cumulative sum; a plain module."""

    def __init__(self, dim, share: float = 0.5, *, deep: bool = False):
        super().__init__()
        self.map = nn.Linear(dim, dim)
        self.share, self.deep = share, deep

    def forward(self, x):
        return self.map(x.cumsum(1) * self.share)


class Optional(Halves):
    """A plain module that can also be called with a mask, which Litmus does not pass."""

    def forward(self, x, mask=None):
        return super().forward(x if mask is None else x * mask)


class NoCache(nn.Module):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x, ctx):
        return x


class Narrow(Attention):
    """An attention with one more option."""

    def __init__(self, config, layer, reach: int = 3):
        super().__init__(config, layer)
        self.reach = reach

    def attention_mask(self, ctx):
        return ctx.causal_mask(self.reach)


class Doubled(Block):
    def __init__(self, layer):
        super().__init__()
        self.norm, self.mixer, self.feedforward = layer.norm(), layer.new_mixer(), layer.new_feedforward()

    def forward(self, x, ctx):
        return x + self.feedforward(self.mixer(self.norm(x), ctx), self.feedforward_context(ctx))


def test_the_keywords_of_init_are_the_options_checked_by_their_annotations():
    recipe = resolve(
        {"base": "standard", "mixer": {"kind": Halves, "share": 0.25}}, overrides={**SMALL, "mixer.deep": 1}
    )
    assert recipe.mixer.model_dump() == {"kind": "halves", "share": 0.25, "deep": True}
    model = build(recipe)
    assert model.layers[0].mixer.module.share == 0.25
    with pytest.raises(BadInput, match="mixer 'halves': share = 'much' is not valid"):
        resolve({"base": "standard", "mixer": {"kind": Halves, "share": "much"}})


@pytest.mark.parametrize("name", ["kind", "build", "copy", "family", "_hidden"])
def test_an_option_may_not_take_a_name_that_configs_use(name):
    def init(self, **options):
        nn.Module.__init__(self)

    parameters = [Parameter("self", Parameter.POSITIONAL_ONLY), Parameter(name, Parameter.KEYWORD_ONLY, default=3)]
    init.__signature__ = Signature(parameters)
    Mine = type("Mine", (nn.Module,), {"__init__": init})
    with pytest.raises(BadInput, match=f"Mine.__init__ has an option '{name}', which is no valid name; rename it"):
        resolve({"base": "standard", "mixer": Mine}, overrides=SMALL)


def test_a_class_has_the_options_of_what_it_derives_from():
    recipe = resolve({"base": "standard", "mixer": {"kind": Narrow, "kv_heads": 1, "reach": 2}}, overrides=SMALL)
    mixer = build(recipe).layers[0].mixer
    assert (mixer.kv_heads, mixer.reach) == (1, 2)


def test_a_class_may_stand_in_a_group_of_layers():
    recipe = resolve(
        {"base": "standard", "layers": [{"repeat": 1, "mixer": Halves}, {"repeat": "rest"}]}, overrides=SMALL
    )
    assert [parts["mixer"].kind for parts in recipe.layer_parts()] == ["halves", "attention"]


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (
            {"mixer": NoCache},
            "NoCache.forward takes a context, so that it decodes from ctx.cache, but it is no litmus.nn.Mixer",
        ),
        ({"mixer": nn.Linear(2, 2)}, "mixer is an object of the class Linear; the class itself is valid"),
        ({"mixer": int}, "mixer is the class int, which is not a torch.nn.Module"),
        ({"mixers": Halves}, "mixers is the class Halves; a class is valid for block, embedding, feedforward"),
        ({"head": {"kind": "linear", "tied": True}, "embedding": Halves}, "head.tied shares the embedding's weight"),
    ],
)
def test_a_class_that_does_not_fit_is_refused_in_one_sentence(recipe, sentence):
    with pytest.raises(BadInput, match=sentence):
        build({"base": "standard", **recipe}, **SMALL)


@torch.no_grad()
@pytest.mark.parametrize("part", [{"mixer": Halves}, {"mixer": Optional}, {"mixer": Narrow}, {"block": Doubled}])
def test_it_decodes_as_it_computes_at_once(part, rough):
    model = rough(build({"base": "standard", **part}, **SMALL)).eval()
    tokens, cache = torch.randint(31, (2, 9)), model.new_cache(2, 9)
    assert_close(torch.cat([model(piece, cache) for piece in tokens.split([4, 1, 3, 1], 1)], 1), model(tokens))


def test_layers_that_share_weights_are_one_layer_with_a_cache_each(tmp_path, rough):
    shared = {"base": "standard", "layers": [{"repeat": "rest", "shared": True}]}
    model = rough(build(shared, **SMALL), torch.float32).eval()
    assert model.layers[0] is model.layers[1]
    assert model.parameter_counts()["non_embedding"] < build("standard", **SMALL).parameter_counts()["non_embedding"]
    assert len(model.new_cache(1, 4).layers) == 2
    save(model, tmp_path / "model")
    tokens = torch.randint(31, (1, 6))
    assert_close(load(tmp_path / "model").eval()(tokens), model(tokens))


@given(length=st.integers(1, 12), rows=st.integers(1, 3), split=st.integers(0, 12), data=st.data())
def test_a_recurrence_runs_alike_in_any_form(length, rows, split, data):
    """Against the sum written out: h_t = sum over s of x_s times the decays after s, for the text's own tokens."""
    x, decay = torch.randn(rows, length, 3, dtype=torch.float64), torch.rand(rows, length, 3, dtype=torch.float64)
    real = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows))
    )
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    expected = torch.zeros_like(x)
    for row in range(rows):
        h = torch.zeros(3, dtype=torch.float64)
        for t in range(length):
            if real[row, t]:
                h = decay[row, t] * h + x[row, t]
            expected[row, t] = h
    for reference in (False, True):
        with reference_path(reference):
            whole = recurrent_scan(x, decay, ForwardContext(positions, None, real))
            assert_close(whole[real], expected[real])
            state, parts, cut = torch.zeros(rows, 3, dtype=torch.float64), [], min(split, length)
            for begin, end in ((0, cut), (cut, length)):
                if begin < end:
                    ctx = ForwardContext(positions[:, begin:end], None, real[:, begin:end])
                    parts.append(recurrent_scan(x[:, begin:end], decay[:, begin:end], ctx, state))
            assert_close(torch.cat(parts, 1)[real], expected[real])
            assert_close(state, expected[:, -1])


def test_a_recurrence_begins_anew_with_each_document():
    positions = torch.tensor([[0, 1, 0, 1, 2]])
    found = recurrent_scan(
        torch.ones(1, 5, 1), 1.0, ForwardContext(positions, None, None, torch.tensor([[0, 0, 1, 1, 1]]))
    )
    assert found[0, :, 0].tolist() == [1, 2, 1, 2, 3]


@torch.no_grad()
def test_texts_of_packed_and_padded_rows_reach_a_plain_module_one_by_one(rough):
    model = rough(build({"base": "standard", "mixer": Halves}, **SMALL)).eval()
    tokens = torch.randint(31, (2, 7))
    real = torch.tensor([[True] * 7, [False, False, True, True, True, True, False]])
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]])
    packed = model(Batch(tokens, None, documents, real))
    assert_close(packed[0, 3:], model(tokens[:1, 3:])[0])
    assert_close(packed[1, 2:4], model(tokens[1:, 2:4])[0])
    assert_close(packed[1, 4:6], model(tokens[1:, 4:6])[0])


class Alternating(nn.Module):
    """A router by the parity of the token id; without a context it would not know the id."""

    def __init__(self, experts, top_k, *, offset: int = 0):
        super().__init__()
        self.experts, self.offset = experts, offset
        assert top_k == 1

    def forward(self, x, ctx):
        chosen = (ctx.token_ids.flatten()[:, None] + self.offset) % self.experts
        return Routing(chosen, torch.ones_like(chosen, dtype=x.dtype), nn.functional.one_hot(chosen[:, 0]).to(x.dtype))


@torch.no_grad()
@pytest.mark.parametrize("offset", [0, 1])
def test_a_class_routes_tokens_by_their_ids(offset, rough):
    router = {"kind": Alternating, "offset": offset}
    recipe = {"base": "standard", "feedforward": {"kind": "moe", "experts": 2, "top_k": 1, "router": router}}
    layer = rough(build(recipe, **SMALL)).layers[0].feedforward
    tokens, x = torch.tensor([[4, 7, 8]]), torch.randn(1, 3, 16, dtype=torch.float64)
    found = layer(x, ForwardContext(torch.arange(3)[None], token_ids=tokens))
    expected = [layer.experts._expert(x[0, t : t + 1], int(tokens[0, t] + offset) % 2) for t in range(3)]
    assert_close(found[0], torch.cat(expected))


class Pairs(nn.Embedding):
    """Each token's vector plus that of the token before, out of a cache of its own."""

    def __init__(self, vocab_size, dim):
        super().__init__(vocab_size, dim)

    def forward(self, tokens, ctx):
        (before,) = token_shifts(tokens + 1, 1, ctx, None if ctx.cache is None else ctx.cache["ids"])
        return super().forward(tokens) + (before > 0)[..., None] * super().forward((before - 1).clamp(min=0))

    def new_cache(self, batch, capacity, *, device, dtype):
        return {"ids": torch.zeros(batch, 1, dtype=torch.long, device=device)}


@torch.no_grad()
def test_an_embedding_reads_earlier_tokens_and_decodes_from_a_cache_of_its_own(rough):
    model = rough(build({"base": "standard", "embedding": Pairs}, **SMALL)).eval()
    tokens, table = torch.tensor([[3, 5, 5, 9]]), model.embedding.weight
    rows = [table[3], table[5] + table[3], table[5] + table[5], table[9] + table[5]]
    assert_close(model.embed(tokens, model.forward_context(tokens))[0], torch.stack(rows))
    documents = model.forward_context(Batch(tokens, document_ids=torch.tensor([[0, 0, 1, 1]])))
    assert_close(model.embed(tokens, documents)[0, 2], table[5])
    cache = model.new_cache(1, 6)
    pieces = [model(tokens[:, :1], cache), model(tokens[:, 1:3], cache), model(tokens[:, 3:], cache)]
    assert_close(torch.cat(pieces, 1), model(tokens))
    assert sum(buffer.numel() for layer in cache.layers for buffer in layer.values()) == model.kv_elements(6)
    with pytest.raises(BadInput, match="the cache of its embedding 'pairs' cannot be truncated"):
        check_supports_rollback(model, "the model")


def test_tokens_ahead_are_embedded_with_those_before_them(rough):
    recipe = {"base": "standard", "embedding": Pairs, "objective": {"kind": "mtp", "depth": 1}}
    model = rough(build(recipe, **SMALL))
    tokens = torch.tensor([[3, 5, 8, 9, 2]])
    seen = []
    with model.objective.mtp_layers[0].embedding_norm.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        model.loss(tokens[:, :-1], tokens[:, 1:])
    table = model.embedding.weight
    assert_close(seen[0][0, 1:3], torch.stack([table[8] + table[5], table[9] + table[8]]))
