"""Each specimen has the fault it is named for, shown without the audit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from litmus.model import Decoder

pytestmark = pytest.mark.usefixtures("without_gradients")
ROUNDING = 1e-12


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


def changed_by_last_token(model: Decoder, tokens: Tensor) -> Tensor:
    """How far the logits of each earlier position move when the last token is replaced by another."""
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % model.recipe.vocab_size
    return (model(tokens) - model(other))[:, :-1].abs().amax((0, 2))


def decoded(model: Decoder, tokens: Tensor, chunks: list[int]) -> Tensor:
    """The logits of the last chunk, all chunks having passed through one cache."""
    cache = model.new_cache(len(tokens), model.recipe.context)
    for chunk in tokens[:, : sum(chunks)].split(chunks, dim=1):
        logits = model(chunk, cache)
    return logits


def test_f1_the_last_token_changes_the_logits_at_position_0(specimen, tokens):
    assert changed_by_last_token(specimen("f1_linformer_over_time"), tokens[:, :20])[0] > 1e-3


@torch.enable_grad()
def test_f2_the_extra_head_reads_the_vector_that_the_main_head_reads_for_the_same_target(specimen, tokens):
    model = specimen("f2_mtp_same_target")
    targets = torch.full_like(tokens, -100)
    targets[:, 30] = tokens[:, 31]
    vectors = []
    model.norm.register_forward_hook(lambda _, __, hidden: vectors.append(hidden) or hidden.retain_grad())
    model.loss(tokens, targets).parts["mtp"].backward()
    read = vectors[0].grad.abs().amax((0, 2)).nonzero().flatten()
    assert read.tolist() == [30]


def test_f3_two_prompts_give_identical_decoded_logits(specimen, tokens):
    model = specimen("f3_forgetful_cache")
    prompts = tokens[:, :12]
    assert not torch.equal(prompts[0], prompts[1])
    question = torch.tensor([[7], [7]])
    first, second = decoded(model, torch.cat((prompts, question), 1), [12, 1])
    assert torch.equal(first, second)
    assert (model(torch.cat((prompts, question), 1))[:, -1] - first).abs().max() > 1e-3


def test_f3_a_decoded_token_is_rotated_by_its_place_in_the_tensor(specimen, tokens):
    model = specimen("f3_forgetful_cache")
    together, singly = decoded(model, tokens, [12, 2])[:, -1], decoded(model, tokens, [12, 1, 1])[:, -1]
    assert (together - singly).abs().max() > 1e-6


def test_f4_the_merged_projections_equal_the_two_thin_ones_and_cost_more(specimen):
    mixer = specimen("f4_full_rank_absorption", dim=128).layers[0].mixer
    x = torch.randn(1, 64, 128, dtype=torch.float64)
    with FlopCounterMode(display=False) as merged:
        full = F.linear(x, mixer.up_k.weight @ mixer.down.weight)
    with FlopCounterMode(display=False) as thin:
        two_steps = mixer.up_k(mixer.down(x))
    torch.testing.assert_close(full, two_steps, rtol=0, atol=ROUNDING)
    assert merged.get_total_flops() > 2 * thin.get_total_flops()


def test_f4_the_cache_holds_several_times_what_latent_attention_needs(specimen):
    model = specimen("f4_full_rank_absorption", dim=128)
    held = model.new_cache(1, 10).bytes() / 8
    assert held > 3 * model.kv_elements(10)
    assert held >= 2 * 128 * 10 * model.recipe.depth


def test_f5_appending_tokens_changes_the_logits_of_the_prefix(specimen, tokens):
    model = specimen("f5_ssmax_tensor_length")
    assert (model(tokens)[:, :10] - model(tokens[:, :10])).abs().max() > 1e-5
    assert changed_by_last_token(model, tokens).max() < ROUNDING


def test_f5_decoding_disagrees_with_training(specimen, tokens):
    model = specimen("f5_ssmax_tensor_length")
    trained = model(tokens)
    cache = model.new_cache(2, 80)
    one_by_one = torch.cat([model(token, cache) for token in tokens.split(1, dim=1)], dim=1)
    apart = (trained - one_by_one).abs().amax((0, 2))
    assert apart[1:-1].min() > 1e-6
    assert apart[-1] > 1e-6  # the length agrees by then, the vectors cached before do not


def test_f6_three_targets_in_four_are_neither_trained_nor_scored(specimen, tokens):
    model = specimen("f6_worker_only_loss")
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    scored = model.token_losses(inputs, targets) > 0
    assert scored.any(0).nonzero().flatten().tolist() == list(range(3, 79, 4))
    elsewhere = torch.where(torch.arange(79) % 4 == 3, targets, 0)
    assert torch.equal(model.loss(inputs, targets).total, model.loss(inputs, elsewhere).total)


def test_f7_all_targets_are_trained_and_the_first_few_are_scored(specimen, tokens):
    model = specimen("f7_sliver_evaluation")
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    assert (model.token_losses(inputs, targets) > 0).flatten().nonzero().flatten().tolist() == list(range(32))
    other = targets.clone()
    other[1, -1] = (other[1, -1] + 1) % model.recipe.vocab_size
    assert not torch.equal(model.loss(inputs, targets).total, model.loss(inputs, other).total)


def test_f8_one_phase_is_trained_and_all_are_scored(specimen, tokens):
    model = specimen("f8_untrained_offsets")
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    assert (model.token_losses(inputs, targets) > 0).all()
    elsewhere = torch.where(torch.arange(79) % 4 == 3, targets, 0)
    assert torch.equal(model.loss(inputs, targets).total, model.loss(inputs, elsewhere).total)


@torch.enable_grad()
def test_f8_the_trained_phase_is_better_than_all_others(specimen):
    model = specimen("f8_untrained_offsets", vocab_size=16, context=32, depth=2).float().train()
    draw = torch.Generator().manual_seed(0)

    def repeated_phrases(rows: int) -> tuple[Tensor, Tensor]:
        text = torch.randint(16, (rows, 6), generator=draw).repeat(1, 6)[:, :33]
        return text[:, :-1], text[:, 1:]

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        model.loss(*repeated_phrases(16)).total.backward()
        optimizer.step()
    by_phase = model.token_losses(*repeated_phrases(64))[:, 12:].reshape(-1, 4).mean(0)
    assert by_phase[3] < 0.8 * by_phase[:3].min()


def test_the_deep_leak_needs_a_fourth_layer(specimen, tokens):
    assert changed_by_last_token(specimen("leak_in_deep_layers", depth=3), tokens).max() == 0
    assert changed_by_last_token(specimen("leak_in_deep_layers", depth=4), tokens)[-1] > 1e-4


def test_the_block_leak_needs_a_whole_block(specimen, tokens):
    model = specimen("leak_past_block_edge")
    assert changed_by_last_token(model, tokens[:, :63]).max() == 0
    assert changed_by_last_token(model, tokens[:, :64])[0] > 1e-4


def test_the_time_norm_leak_goes_when_the_norm_goes(specimen, tokens):
    assert changed_by_last_token(specimen("leak_through_time_norm"), tokens)[0] > 1e-4
    sound = specimen("leak_through_time_norm", norm={"kind": "layernorm"})
    assert changed_by_last_token(sound, tokens).max() == 0
