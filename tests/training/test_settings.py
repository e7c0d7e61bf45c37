import pytest

from litmus.errors import BadInput
from litmus.training import TrainSettings
from litmus.training.settings import settings_from


def test_every_option_is_explained_where_it_is_declared():
    assert [name for name, field in TrainSettings.model_fields.items() if not field.description] == []


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(BadInput, match=r"unknown key 'warm_up'; did you mean 'warmup'"):
        settings_from({"warm_up": 0.1})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0),
        ("batch", 0),
        ("warmup", 1),
        ("label_smoothing", 1.0),
        ("clip", 0),
        ("precision", "fp8"),
        ("optimizer", "sgd"),
        ("betas", [0.9, 1.0]),
        ("budget", "0 steps"),
        ("trackers", ["mlflow"]),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(BadInput, match=option):
        settings_from({option: value})


def test_the_data_order_follows_the_seed_unless_it_has_its_own():
    assert TrainSettings(seed=3).order_seed == 3
    assert TrainSettings(seed=3, data_seed=0).order_seed == 0
