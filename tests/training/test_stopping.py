from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from litmus.errors import BadInput
from litmus.training.optimizers import lr_factor
from litmus.training.settings import PRESETS, TrainSettings, preset_named, settings_from
from litmus.training.stopping import no_longer_improves


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([], 1, False), ([3.0], 1, False), ([3.0, 2.0], 1, False), ([3.0, 3.0], 1, True), ([3.0, 4.0], 2, False),
        ([3.0, 4.0, 3.5], 2, True), ([3.0, 4.0, 2.9], 2, False), ([3.0, 4.0, 5.0], None, False),
    ],
)  # fmt: skip
def test_patience_counts_validations_without_a_lower_loss(
    losses: list[float], patience: int | None, stops: bool
) -> None:
    assert no_longer_improves(losses, patience) is stops


def test_a_training_stops_when_its_patience_is_spent_and_stays_stopped(
    quick: Callable[..., Any], events: Callable[..., Any]
) -> None:
    options = {"budget": "40 steps", "validate_every": 2, "lr": 1.0, "warmup": 0.0, "patience": 2}
    result = quick(**options)
    losses = [event["loss"] for event in events(kind="val")]
    assert result.stopped_early and result.steps == 2 * len(losses) < 40
    assert no_longer_improves(losses, 2) and not no_longer_improves(losses[:-1], 2)
    assert quick(**options) == result, "it is finished"


def test_warmup_may_be_given_in_steps() -> None:
    settings = settings_from({"budget": "100 steps", "warmup_steps": 20, "schedule": "linear"})
    assert [lr_factor(fraction, settings) for fraction in (0.0, 0.1, 0.2)] == [0.0, 0.5, 1.0]
    assert lr_factor(0.5, settings) == lr_factor(0.5, TrainSettings(warmup=0.2, schedule="linear"))
    with pytest.raises(BadInput, match="warmup_steps needs a budget in steps, and it is 5min"):
        settings_from({"budget": "5min", "warmup_steps": 20})


def test_a_preset_with_a_budget_of_time_warms_up_over_the_same_fraction() -> None:
    lab = PRESETS["roleplay-lab"]
    settings = settings_from(lab.training_options({"budget": "30min"}))
    assert (settings.warmup_fraction, settings.lr) == (100 / 2000, 1e-3)
    assert settings_from(lab.training_options({"warmup": 0.2})).warmup_fraction == 0.2
    assert settings_from(lab.training_options({"budget": "400 steps"})).warmup_fraction == 100 / 400
    assert settings_from(lab.training_options({"warmup_steps": 7})).warmup_steps == 7


def test_presets_are_valid_settings_and_unknown_ones_are_refused() -> None:
    for preset in PRESETS.values():
        settings = settings_from(preset.training)
        assert settings.context == preset.recipe["context"] == preset.chat["max_tokens"]
    report = settings_from(PRESETS["roleplay"].training)
    assert (report.batch, report.accumulation, report.lr, report.weight_decay) == (8, 4, 1e-4, 0.01)
    with pytest.raises(BadInput, match="--preset 'roleply' is unknown; did you mean 'roleplay'"):
        preset_named("roleply")
