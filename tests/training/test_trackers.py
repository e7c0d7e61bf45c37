import sys
import types

import pytest

from litmus.errors import BadInput


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(name, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BadInput, match=rf"tracker {name} needs the package '{name}'.*litmus-lm\[{name}\]"):
        quick(trackers=(name,))


class FakeLibrary(types.ModuleType):
    """Has the three calls that trackio and wandb share."""

    def __init__(self):
        super().__init__("fake")
        self.started, self.logged, self.ended = None, [], 0

    def init(self, **options):
        self.started = options
        return self

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.ended += 1


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_gets_every_step_and_every_validation(name, quick, events, monkeypatch):
    library = FakeLibrary()
    monkeypatch.setitem(sys.modules, name, library)
    quick(trackers=(name,))
    assert library.started["project"] == "litmus"
    assert library.started["name"] == "run"
    assert library.started["config"]["recipe"]["dim"] == 16
    steps = {step: metrics["train/loss"] for step, metrics in library.logged if "train/loss" in metrics}
    assert steps == {event["step"]: event["loss"] for event in events(kind="train")}
    bits = {step: metrics["val/bpb"] for step, metrics in library.logged if "val/bpb" in metrics}
    assert bits == {event["step"]: event["bpb"] for event in events(kind="val")}
    assert library.ended == 1


def test_a_tracker_is_closed_when_the_training_fails(quick, monkeypatch):
    from litmus.training.train_step import NotFinite, TrainStep
    from litmus.training.trainer import TrainingDiverged

    def fail(self, batches, lr):
        raise NotFinite("loss nan")

    library = FakeLibrary()
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.setattr(TrainStep, "step", fail)
    with pytest.raises(TrainingDiverged):
        quick(trackers=("wandb",))
    assert library.ended == 1
