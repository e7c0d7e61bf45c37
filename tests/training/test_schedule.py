import pytest
from hypothesis import given
from hypothesis import strategies as st

from litmus.training import TrainSettings
from litmus.training.optimizers import lr_factor

KINDS = ["cosine", "linear", "constant", "wsd"]


def settings(**options):
    return TrainSettings(**{"warmup": 0.1, "final_lr": 0.1, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_is_a_line_from_zero_to_the_peak(kind):
    chosen = settings(schedule=kind)
    assert lr_factor(0.0, chosen) == 0
    assert lr_factor(0.05, chosen) == pytest.approx(0.5)
    assert lr_factor(0.1, chosen) == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "middle", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1, 1), ("wsd", 1, 0.1)]
)
def test_each_schedule_has_its_value_in_the_middle_and_at_the_end(kind, middle, end):
    chosen = settings(schedule=kind)
    assert lr_factor(0.55, chosen) == pytest.approx(middle)
    assert lr_factor(1.0, chosen) == pytest.approx(end)


def test_cosine_is_above_the_line_before_the_middle_and_below_it_after():
    cosine, linear = settings(schedule="cosine"), settings(schedule="linear")
    assert lr_factor(0.3, cosine) > lr_factor(0.3, linear)
    assert lr_factor(0.8, cosine) < lr_factor(0.8, linear)


def test_wsd_is_stable_until_its_decay_begins_and_then_a_line():
    chosen = settings(schedule="wsd", decay=0.2, final_lr=0.0)
    assert lr_factor(0.8, chosen) == pytest.approx(1)
    assert lr_factor(0.9, chosen) == pytest.approx(0.5)


def test_wsd_that_warms_up_into_its_decay_still_reaches_the_peak():
    chosen = settings(schedule="wsd", warmup=0.9, decay=0.5, final_lr=0.0)
    assert lr_factor(0.9, chosen) == pytest.approx(1)
    assert lr_factor(0.95, chosen) == pytest.approx(0.5)


@given(
    kind=st.sampled_from(KINDS),
    warmup=st.floats(0, 0.99),
    decay=st.floats(0.01, 1),
    final=st.floats(0, 1),
    fraction=st.floats(0, 1),
)
def test_the_factor_never_leaves_its_range_whatever_the_options(kind, warmup, decay, final, fraction):
    factor = lr_factor(fraction, TrainSettings(schedule=kind, warmup=warmup, decay=decay, final_lr=final))
    assert 0 <= factor <= 1
    if fraction >= warmup:
        assert factor >= min(final, 1) - 1e-12
