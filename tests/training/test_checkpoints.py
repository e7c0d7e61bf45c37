import errno
import json
import shutil

import pytest
import torch
from safetensors import SafetensorError

from litmus.errors import BadInput
from litmus.model import load, resolve
from litmus.model.decoder import Decoder
from litmus.model.storage import weights
from litmus.training.budget import Usage
from litmus.training.run import checkpoints
from litmus.training.run.checkpoints import (
    State,
    best_checkpoint,
    newest_checkpoint,
    prune,
    remove_later,
    save_checkpoint,
)

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "recipe.yaml"]


@pytest.fixture
def model(recipe):
    return Decoder(resolve(recipe, vocab_size=50))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def save(folder, model):
    def at(step, loss=None):
        state = State(usage=Usage(step, step * 64, step * 0.1, step * 1e6), peak_memory_bytes=7, val_loss=loss)
        save_checkpoint(folder, model.recipe, weights(model), {"exp_avg/norm.weight": torch.ones(16)}, state)

    return at


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def test_a_checkpoint_gives_back_exactly_what_was_saved(save, folder, model):
    save(3, loss=2.5)
    found = newest_checkpoint(folder, print)
    assert found.state.usage == Usage(3, 192, 3 * 0.1, 3e6)
    assert found.state.val_loss == 2.5
    assert found.weights().keys() == weights(model).keys()
    assert all(torch.equal(found.weights()[name], value) for name, value in weights(model).items())
    assert torch.equal(found.optimizer_state()["exp_avg/norm.weight"], torch.ones(16))


def test_a_checkpoint_is_a_model_folder_too(save, folder, model):
    save(3)
    assert load(folder / "3").recipe == model.recipe


def test_a_checkpoint_of_version_0_1_0_is_read_and_its_damage_found(save, folder):
    for step in (1, 2):
        save(step)
        place = folder / str(step)
        manifest = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").unlink()
        (place / "seals.json").write_text(json.dumps(manifest["files"]))
    assert newest_checkpoint(folder, lambda note: None).state.step == 2
    (folder / "2" / "optimizer.safetensors").write_bytes(b"cut")
    assert newest_checkpoint(folder, lambda note: None).state.step == 1


def test_no_checkpoint_is_not_an_error(folder):
    assert newest_checkpoint(folder, print) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "missing", "altered"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(save, folder, name, damage):
    save(3)
    save(6)
    path = folder / "6" / name
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    said = []
    found = newest_checkpoint(folder, said.append)
    assert found.state.step == 3
    (sentence,) = said
    assert "checkpoint 6 is damaged" in sentence
    assert name in sentence or (name, damage) == ("manifest.json", "altered")  # then another file does not fit it
    assert "using checkpoint 3" in sentence
    if damage in ("truncated", "emptied") and name != "manifest.json":
        assert "bytes instead of" in sentence


def test_when_every_checkpoint_is_damaged_nothing_is_guessed(save, folder):
    save(3)
    (folder / "3" / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match=r"no checkpoint in .* can be used"):
        newest_checkpoint(folder, print)


def test_the_last_k_and_the_best_are_kept(save, folder):
    for step, loss in enumerate([4.0, 2.0, 3.0, None, 3.5], start=1):
        save(step, loss)
        prune(folder, keep_last=2)
    assert steps_in(folder) == [2, 4, 5]
    assert best_checkpoint(folder).state.step == 2


def test_the_best_is_never_one_that_was_damaged(save, folder):
    save(1, 2.0)
    save(2, 3.0)
    (folder / "1" / "model.safetensors").write_bytes(b"")
    assert best_checkpoint(folder).state.step == 2


def test_what_a_killed_process_left_half_done_is_removed(save, folder):
    save(3)
    shutil.copytree(folder / "3", folder / ".6.abcdefgh.litmus-tmp")
    shutil.copytree(folder / "3", folder / "9")
    remove_later(folder, 3)
    assert [path.name for path in folder.iterdir()] == ["3"]


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_trace(save, folder, monkeypatch):
    save(3)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(BadInput, match=r"disk is full.*everything saved earlier is intact"):
        save(6)
    assert [path.name for path in folder.iterdir()] == ["3"]
    assert newest_checkpoint(folder, print).state.step == 3
