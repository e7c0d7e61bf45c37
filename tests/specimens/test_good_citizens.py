"""Apart from its fault each specimen is a usable model: it trains, generates, saves, and is sound elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from litmus.generation import generate
from litmus.model import build, load, save, training_flops_per_token
from litmus.nn import Batch

FILES = sorted((Path(__file__).parents[2] / "specimens").glob("*.py"))
ALL = [path.stem for path in FILES]
SEES_THE_FUTURE = {
    "f1_linformer_over_time",
    "f9_block_means",
    "f9_chunk_recurrence",
    "f9_circular_filter",
    "f10_no_causal_mask",
    "leak_in_deep_layers",
    "leak_past_block_edge",
    "leak_through_time_norm",
    "leak_under_a_cast",
}
DECODES_WRONGLY = SEES_THE_FUTURE | {"f3_forgetful_cache", "f5_ssmax_tensor_length"}
DEPENDS_ON_PADDING = {
    "f1_linformer_over_time",
    "f5_ssmax_tensor_length",
    "f9_block_means",
    "f10_no_causal_mask",
    "leak_through_time_norm",
    "leak_under_a_cast",
}
ROUNDING = 1e-12


def but(faulty: set[str]) -> list[str]:
    return [name for name in ALL if name not in faulty]


@pytest.mark.parametrize("path", FILES, ids=ALL)
def test_a_specimen_states_its_fault_and_imports_public_names_only(path):
    source = path.read_text(encoding="utf-8")
    story = " ".join((ast.get_docstring(ast.parse(source)) or "").split())
    assert "What it does to results." in story and "The sound version" in story
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    public = {"litmus.nn", "litmus.model", "torch", "torch.nn", "torch.nn.functional"}
    assert imported <= public | {"dataclasses", "math", "typing"}


@pytest.mark.parametrize("name", ALL)
def test_a_specimen_learns_a_batch(specimen, tokens, name):
    model = specimen(name).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:]).total
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2
    assert all(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", ALL)
def test_a_specimen_generates_for_ragged_prompts(specimen, name):
    model = specimen(name).float()
    written = generate(model, [[1, 2, 3, 4, 5], [6]], max_new_tokens=20)
    assert [len(row) for row in written] == [20, 20]


@pytest.mark.parametrize("name", ALL)
def test_a_saved_specimen_comes_back(specimen, tokens, tmp_path, name):
    model = specimen(name).float()
    save(model, tmp_path / "model")
    back = load(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(model(tokens), back(tokens))
        assert model(tokens).shape == (*tokens.shape, model.recipe.vocab_size)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", ["tiny", "mini"])
def test_a_specimen_takes_every_size(name, size):
    path = next(path for path in FILES if path.stem == name)
    with torch.device("meta"):
        assert build(path, size=size).recipe.name == name


@pytest.mark.parametrize("name", ALL)
def test_the_costs_of_a_specimen_can_be_counted(specimen, name):
    model = specimen(name)
    assert training_flops_per_token(model.recipe) > 0
    honest = model.new_cache(2, 10).bytes() == 2 * 8 * model.kv_elements(10)
    assert honest == (name != "f4_full_rank_absorption")


@pytest.mark.parametrize("name", but(SEES_THE_FUTURE))
@torch.no_grad()
def test_later_tokens_change_nothing_where_that_is_not_the_fault(specimen, tokens, name):
    model = specimen(name)
    other = tokens.clone()
    other[:, 70:] = (other[:, 70:] + 1) % model.recipe.vocab_size
    assert (model(tokens) - model(other))[:, :70].abs().max() < ROUNDING


@pytest.mark.parametrize("name", but(DECODES_WRONGLY))
@torch.no_grad()
def test_cached_equals_full_where_that_is_not_the_fault(specimen, tokens, name):
    model = specimen(name)
    cache = model.new_cache(2, 80)
    pieces = torch.cat([model(chunk, cache) for chunk in tokens.split([1, 7, 30, 1, 1, 40], dim=1)], dim=1)
    assert (pieces - model(tokens)).abs().max() < ROUNDING


@pytest.mark.parametrize("name", but(DEPENDS_ON_PADDING))
@torch.no_grad()
def test_padding_on_either_side_changes_nothing_where_that_is_not_the_fault(specimen, tokens, name):
    model = specimen(name)
    left, right = tokens.clone(), torch.cat((tokens[:, :70], tokens[:, :10]), dim=1)
    left[:, 10:] = tokens[:, :70]
    index = torch.arange(80).expand(2, -1)
    alone = model(tokens[:, :70])
    assert (model(Batch(left, padding_mask=(index >= 10)))[:, 10:] - alone).abs().max() < ROUNDING
    assert (model(Batch(right, padding_mask=(index < 70)))[:, :70] - alone).abs().max() < ROUNDING


@pytest.mark.parametrize("name", but(DEPENDS_ON_PADDING))
@torch.no_grad()
def test_packed_documents_stay_apart_where_that_is_not_the_fault(specimen, tokens, name):
    model = specimen(name)
    documents = (torch.arange(80) // 40).expand(2, -1)
    packed = model(Batch(tokens, document_ids=documents))
    assert (packed[:, 40:] - model(tokens[:, 40:])).abs().max() < ROUNDING
