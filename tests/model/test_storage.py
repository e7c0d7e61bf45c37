"""Models on disk: whole, or refused with what is wrong; never at the cost of something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from litmus.errors import BadInput
from litmus.model import Decoder, build, load, save

Small = Callable[..., Decoder]


@pytest.fixture
def saved(small: Small, tmp_path: Path) -> Path:
    save(small("standard"), tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_folder_holds_recipe_and_weights_and_nothing_else(saved: Path, small: Small) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "model.safetensors", "recipe.yaml"]
    assert "head.weight" not in load_file(saved / "model.safetensors")
    assert load_file(saved / "model.safetensors").keys() == dict(small("standard").named_parameters()).keys()


def test_a_tied_head_is_tied_again_after_loading(saved: Path) -> None:
    model = load(saved)
    assert model.head.weight is model.embedding.weight


def test_loading_leaves_the_random_state_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_weights_are_kept_to_the_bit(small: Small, tmp_path: Path) -> None:
    model = small("gpt2", dropout=0.0).bfloat16()
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    for name, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter.float())


def test_a_saved_model_replaces_another(saved: Path, small: Small) -> None:
    other = small("learned", seed=5)
    save(other, saved)
    assert load(saved).recipe == other.recipe
    assert sorted(path.name for path in saved.parent.iterdir()) == ["model"]


def test_a_failed_save_leaves_the_old_model(saved: Path, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr("litmus.model.storage.save_file", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        save(small("learned"), saved)
    assert load(saved).recipe.name == "standard"
    assert sorted(path.name for path in saved.parent.iterdir()) == ["model"]


def test_a_folder_of_other_things_is_not_replaced(small: Small, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a run folder has one too")
    with pytest.raises(BadInput, match=r"is no saved model that Litmus wrote .* it holds recipe.yaml"):
        save(small("standard"), tmp_path)
    with pytest.raises(BadInput, match=r"recipe.yaml is not a folder"):
        save(small("standard"), tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_text() == "a run folder has one too"
    (tmp_path / "empty").mkdir()
    save(small("standard"), tmp_path / "empty")


def test_what_does_not_fit_is_counted_and_the_first_five_are_named(saved: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["norm.weight"], tensors["layers.0.mixer.qkv.weight"]
        tensors["novel"] = torch.zeros(1)
        for layer in range(3):
            tensors[f"layers.{layer}.mixer.out.weight"] = torch.zeros(3, 5)

    change_weights(saved, spoil)
    with pytest.raises(BadInput) as error:
        load(saved)
    sentence = str(error.value)
    assert "model.safetensors does not fit recipe 'standard': " in sentence
    assert "norm.weight is missing" in sentence and "layers.0.mixer.qkv.weight is missing" in sentence
    assert "novel is extra" in sentence
    assert "layers.0.mixer.out.weight is (3, 5), not (32, 32)" in sentence
    assert "layers.1.mixer.out.weight is (3, 5), not (32, 32) and 1 more" in sentence
    assert "layers.2" not in sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: tensors.pop("norm.weight"), r"'standard': norm.weight is missing$"),
        (lambda tensors: tensors.update(novel=torch.zeros(1)), r"'standard': novel is extra$"),
        (lambda tensors: tensors.update({"norm.weight": torch.zeros(31)}), r"norm.weight is \(31,\), not \(32,\)$"),
    ],
)
def test_one_fault_is_named_alone(
    change: Callable[[dict[str, torch.Tensor]], object], sentence: str, saved: Path
) -> None:
    change_weights(saved, change)
    with pytest.raises(BadInput, match=sentence):
        load(saved)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_refused(kept: int, saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(BadInput, match=r"model.safetensors is not a whole safetensors file"):
        load(saved)


@pytest.mark.parametrize("missing", ["recipe.yaml", "model.safetensors"])
def test_a_folder_without_a_model_is_refused(missing: str, saved: Path) -> None:
    (saved / missing).unlink()
    with pytest.raises(BadInput, match=r"holds no model: recipe.yaml and model.safetensors are expected there"):
        load(saved)
    with pytest.raises(BadInput, match="holds no model"):
        load(saved / "nowhere")


@pytest.mark.parametrize("content", [b"", b"- 1", b"dim: [", b"caf\xe9: 1"])
def test_a_damaged_recipe_is_refused(content: bytes, saved: Path) -> None:
    (saved / "recipe.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=r"recipe.yaml"):
        load(saved)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: x\n" * 3, r"recipe.yaml: the key 'name' appears twice"),
        (b"dim: " + b"9" * 400, r"recipe.yaml: the number 9+.* is beyond 64 bits"),
        (b"layers: " + b"[" * 500 + b"]" * 500, r"recipe.yaml is nested more than 64 deep"),
        (
            b"a: &a [1, 1]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 118)),
            "values",
        ),
        (b"#" + b" " * 2**20, r"recipe.yaml has more than 1 MiB"),
        (b"when: 2020-01-01", r"unknown key 'when'|is missing"),
    ],
    ids=["twice", "digits", "deep", "aliases", "huge", "date"],
)
def test_a_saved_recipe_is_read_with_the_bounds_of_every_other_yaml(content: bytes, sentence: str, saved: Path) -> None:
    (saved / "recipe.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=sentence):
        load(saved)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(number: float, saved: Path) -> None:
    change_weights(saved, lambda tensors: tensors["norm.weight"].__setitem__(3, number))
    with pytest.raises(BadInput, match=r"model.safetensors holds NaN or infinite weights in norm.weight; restore"):
        load(saved)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_of_another_type_are_refused_and_not_read_as_numbers(dtype: torch.dtype, saved: Path) -> None:
    change_weights(saved, lambda tensors: tensors.update({"norm.weight": tensors["norm.weight"].to(dtype)}))
    with pytest.raises(BadInput, match=rf"'standard': norm.weight is of type {str(dtype)[6:]}, not float32$"):
        load(saved)


@pytest.mark.parametrize(
    "header",
    [
        (100 * 2**30).to_bytes(8, "little"),
        (2**64 - 1).to_bytes(8, "little"),
        b"\x50"
        + bytes(7)
        + b'{"norm.weight":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}'[:80],
        b"\x4a" + bytes(7) + b'{"norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[4611686018,0]}} ',
        b"\x02" + bytes(7) + b"[]",
    ],
    ids=["100 GiB", "2^64", "cut", "backwards", "list"],
)
def test_a_header_that_claims_what_is_not_there_is_refused_before_room_is_made(header: bytes, saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(header + b"{}" * 50)
    with pytest.raises(BadInput, match=r"model.safetensors is not a whole safetensors file"):
        load(saved)


@pytest.mark.parametrize("name", ["mtp", "deepseek"])
def test_what_only_training_needs_can_be_left_out(name: str, small: Small, tmp_path: Path) -> None:
    model = small(name).eval()
    save(model, tmp_path / "lean", keep_objective=False)
    save(model, tmp_path / "whole")
    lean, whole, tokens = load(tmp_path / "lean").eval(), load(tmp_path / "whole").eval(), torch.arange(9)[None]
    assert torch.equal(lean(tokens), model(tokens))
    assert whole.recipe == model.recipe
    assert lean.recipe.objective.kind == "next_token"
    assert lean.parameter_counts()["active"] == model.parameter_counts()["active"]
    assert lean.parameter_counts()["total"] < model.parameter_counts()["total"]
    assert "mtp_1" not in lean.loss(tokens, tokens).parts


def test_what_a_router_learned_beside_its_gradient_is_kept(small: Small, tmp_path: Path) -> None:
    model = small("moe-v3").eval()
    bias = model.get_buffer("layers.1.feedforward.router.bias")
    bias += torch.randn(len(bias))
    save(model, tmp_path / "model")
    again, tokens = load(tmp_path / "model").eval(), torch.arange(20)[None]
    assert torch.equal(again(tokens), model(tokens))
    assert not torch.equal(small("moe-v3").eval()(tokens), model(tokens))


@pytest.mark.parametrize("name", ["notes.txt", ".git/config", "config.json"])
def test_a_saved_model_to_which_somebody_added_a_file_is_not_replaced(name: str, saved: Path, small: Small) -> None:
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_text("mine")
    with pytest.raises(BadInput, match=f"holds {name}, which Litmus did not write"):
        save(small("learned"), saved)
    assert (saved / name).read_text() == "mine"
    assert load(saved).recipe.name == "standard"


def test_a_link_to_a_saved_model_is_saved_through(saved: Path, small: Small) -> None:
    (saved.parent / "link").symlink_to("model")
    save(small("learned"), str(saved.parent / "link"))
    assert load(saved).recipe.name == "learned"
    assert (saved.parent / "link").is_symlink()
    assert sorted(path.name for path in saved.parent.iterdir()) == ["link", "model"]


def test_weights_under_the_names_of_version_0_1_0_are_read(tmp_path: Path) -> None:
    saved = build("mtp", vocab_size=61, dim=32, heads=2, depth=2)
    save(saved, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    renamed = {name.replace("mtp_layers", "modules_ahead"): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, file)
    for name, parameter in load(tmp_path / "m").named_parameters():
        assert torch.equal(parameter, saved.get_parameter(name))
