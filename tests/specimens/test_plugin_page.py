"""The files that docs/plugins.md tells a newcomer to save do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from litmus.auditing import audit
from litmus.errors import BadInput
from litmus.model import Decoder, build, training_flops_per_token
from litmus.nn import Batch, ForwardContext, reference_path

TEXT = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL))
SHOWN = ["fading_memory", "moving_average", "my_idea", "strided"]
DECLARED_BY_HAND = ["squared_gate", "z_loss"]
EXAMPLES = Path(__file__).parents[2] / "examples"
ROUNDING = 1e-12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with every file of the page in it, and those that it names for declaring a kind by hand."""
    folder = tmp_path_factory.mktemp("user")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in DECLARED_BY_HAND:
        (folder / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "biased.yaml").write_text(re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0], encoding="utf-8")
    return folder


@pytest.fixture(params=SHOWN + DECLARED_BY_HAND)
def model(folder: Path, request: pytest.FixtureRequest) -> Decoder:
    return build(folder / f"{request.param}.py", vocab_size=61, context=64, dim=32, heads=2).double().eval()


def test_the_page_shows_these_files():
    assert sorted(FILES) == sorted([f"{name}.py" for name in SHOWN] + ["try_it.py"])


@pytest.mark.parametrize("name", ["fading_memory", "moving_average", "strided"])
def test_the_page_shows_the_examples_as_they_are(name):
    assert FILES[f"{name}.py"] == (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")


def test_the_page_names_the_examples_of_kinds_declared_by_hand():
    assert all(f"(../examples/{name}.py)" in TEXT for name in DECLARED_BY_HAND)


def test_the_lines_to_try_run_as_printed(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    exec(compile(FILES["try_it.py"], "try_it.py", "exec"), {})
    assert "torch.Size([2, 64, 1000])" in capsys.readouterr().out


def test_a_yaml_file_beside_the_plugin_changes_one_option(folder):
    own, changed = build(folder / "my_idea.py").recipe, build(folder / "biased.yaml").recipe
    assert changed.mixer.gate_bias and not own.mixer.gate_bias
    different = {key for key, value in own.to_dict().items() if changed.to_dict()[key] != value}
    assert different == {"name", "mixer"}


def test_a_group_of_layers_has_a_mixer_of_its_own(folder):
    parts = build(folder / "fading_memory.py", size="mini").recipe.layer_parts()
    assert [part["mixer"].kind for part in parts] == ["fading_memory"] * 5 + ["attention"]


@torch.no_grad()
def test_the_two_paths_agree(model, tokens):
    full = model(tokens[:, :40])
    with reference_path():
        assert (full - model(tokens[:, :40])).abs().max() < ROUNDING
    documents = (torch.arange(40) // 15).expand(2, -1)
    packed = [model(Batch(tokens[:, :40], document_ids=documents))]
    with reference_path():
        packed.append(model(Batch(tokens[:, :40], document_ids=documents)))
    assert (packed[0] - packed[1]).abs().max() < ROUNDING


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
def test_a_ragged_batch_in_the_cache_equals_each_row_alone(model, tokens, fast):
    rows, real = tokens[:, :10].clone(), torch.ones(2, 10, dtype=torch.bool)
    rows[0, 4:], real[0, :4] = tokens[0, :6], False  # padded on the left
    real[1, 5:] = False  # padded on the right
    cache = model.new_cache(2, 64)
    model(Batch(rows, padding_mask=real), cache)
    resting = torch.tensor([[False] * 3, [True] * 3])
    model(Batch(torch.stack((tokens[0, :3], tokens[1, 5:8])), padding_mask=resting), cache)
    last = model(torch.stack((tokens[0, 6:8], tokens[1, 8:10])), cache)
    alone = model(tokens[:, :10])
    assert (last[0] - alone[0, 6:8]).abs().max() < ROUNDING
    assert (last[1] - alone[1, 8:10]).abs().max() < ROUNDING


def test_the_strided_page_reads_near_tokens_and_every_eighth_of_the_far_ones(folder):
    made = build(folder / "strided.py", vocab_size=61, context=64, dim=32, heads=2, depth=1).double()
    x = torch.randn(1, 40, 32, dtype=torch.float64, requires_grad=True)
    y = made.layers[0].mixer(x, ForwardContext(torch.arange(40)[None]))
    (gradient,) = torch.autograd.grad(y[0, 37].sum(), x)
    assert gradient[0].abs().amax(-1).nonzero()[:, 0].tolist() == [0, 8, 16, *range(22, 38)]


def test_its_training_reaches_every_parameter(model, tokens):
    model.train().loss(tokens[:, :39], tokens[:, 1:40]).total.backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_its_loss_is_0_without_a_gradient_where_nothing_is_scored(model, tokens):
    loss = model.train().loss(tokens, torch.full_like(tokens, -100))
    loss.total.backward()
    assert loss.total == 0 and all(part == 0 for part in loss.parts.values())
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_its_costs_can_be_counted(model):
    assert training_flops_per_token(model.recipe) > 0
    assert model.new_cache(2, 10).bytes() == 2 * 8 * model.kv_elements(10)


def test_the_first_file_of_the_page_passes_the_audit(folder):
    """The other files are examples, whose tests audit them."""
    checks = ("causality", "prefix consistency", "cache parity", "coverage", "costs as declared", "equivalence")
    model = build(folder / "my_idea.py", vocab_size=61, context=64, dim=32, heads=2)
    report = audit(model, quick=True, only=checks)
    assert {finding.name: finding.detail for finding in report.failed} == {}


def test_the_saved_recipe_names_its_file(model, folder):
    saved = yaml.safe_load(model.recipe.to_yaml())
    assert Path(saved["plugin"]["path"]).parent == folder


MISTAKES = [
    ("recipe = {", "recipes = {", "defines no recipe"),
    ("import Attention", "import Atention", "ImportError: cannot import name 'Atention' from 'litmus.nn'"),
    ("gate_bias: bool = False", "gate_bias: bool", "MyGate.__init__ needs 'gate_bias', which Litmus does not pass"),
    (
        '"mixer": MyGate',
        '"mixer": {"kind": MyGate, "gate_bios": True}',
        "mixer 'my_gate': unknown key 'gate_bios'; did you mean 'gate_bias'",
    ),
    ('"mixer": MyGate', '"mixers": MyGate', "mixers is the class MyGate; a class is valid for block, embedding, "),
    ("MyGate", "Window", "mixer kind 'window' is declared twice, in "),
]


@pytest.mark.parametrize(("right", "wrong", "sentence"), MISTAKES, ids=[wrong for _, wrong, _ in MISTAKES])
def test_a_mistake_gets_the_sentence_on_the_page(tmp_path, right, wrong, sentence):
    assert sentence in TEXT and right in FILES["my_idea.py"]
    code = FILES["my_idea.py"].replace(right, wrong)
    (tmp_path / "my_idea.py").write_text(code, encoding="utf-8")
    with pytest.raises(BadInput) as error:
        build(tmp_path / "my_idea.py")
    assert sentence in str(error.value)
