"""The protocols of the claims name what there is, and what follows from an interval is what they say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litmus.claims.checks import CHECKS
from litmus.claims.experiments import SPECIMENS
from litmus.claims.protocol import (
    SCALES,
    Check,
    Compare,
    Criterion,
    Decode,
    Probe,
    Region,
    Scale,
    claim_from,
    claim_named,
    claim_names,
    training_of,
)
from litmus.claims.record import Figure, overall, within, word_of
from litmus.errors import BadInput
from litmus.model import resolve
from litmus.probes import probe_named

CLAIMS = [(name, scale) for name in claim_names() for scale in SCALES]


def test_there_are_thirteen_claims() -> None:
    assert [claim_named(name).number for name in claim_names()] == list(range(1, 14))


@pytest.mark.parametrize(("name", "scale"), CLAIMS)
def test_a_protocol_names_recipes_probes_checks_and_strategies_that_there_are(name: str, scale: Scale) -> None:
    for experiment in claim_named(name, scale).experiments:
        if isinstance(experiment, Compare | Probe):
            training_of(experiment)
            for arm in experiment.arms:
                if not (isinstance(arm, str) and arm.startswith(SPECIMENS)):
                    resolve(arm, size=experiment.size, overrides=experiment.overrides)
        if isinstance(experiment, Probe):
            lengths = probe_named(experiment.probe).test_lengths
            assert all(figure.length in (None, *lengths) for figure in experiment.figures.values())
        if isinstance(experiment, Check):
            assert set(experiment.figures.values()) <= set(CHECKS[experiment.check].figures)
        if isinstance(experiment, Decode):
            resolve(experiment.recipe, size=experiment.size)
            known = {"no cache", "absorbed", "cache", "cache + absorbed"}
            for figure in experiment.figures.values():
                assert {figure.strategy, figure.against} <= known
                assert {figure.prompt, figure.against_prompt or figure.prompt} <= set(experiment.prompt_tokens)


@pytest.mark.parametrize(("name", "scale"), CLAIMS)
def test_the_regions_of_a_criterion_share_no_more_than_a_boundary(name: str, scale: Scale) -> None:
    for criterion in claim_named(name, scale).criteria:
        if criterion.refuted is None:
            continue
        ends = [criterion.confirmed, criterion.refuted]
        (_, first), (second, _) = sorted(
            ((low if low is not None else -1e30, high if high is not None else 1e30) for low, high in ends)
        )
        assert first <= second, criterion


def figure(low: float, high: float) -> Figure:
    return Figure(label="a", unit="nats", value=(low + high) / 2, low=low, high=high)


ends = st.floats(-10, 10)
intervals = st.tuples(ends, ends).map(sorted)


@given(intervals, ends)
def test_an_interval_is_confirmed_refuted_or_inconclusive_by_the_side_of_the_boundary_it_lies_on(
    interval: list[float], boundary: float
) -> None:
    criterion = Criterion(figure="a", confirmed=(None, boundary), refuted=(boundary, None), says="It is small.")
    low, high = interval
    word = word_of(figure(low, high), criterion)
    assert (word == "inconclusive") == (low < boundary < high or low == high == boundary)
    if word != "inconclusive":
        assert (word == "confirmed") == (high <= boundary)
    mirrored = criterion.model_copy(update={"confirmed": criterion.refuted, "refuted": criterion.confirmed})
    swapped = {"confirmed": "refuted", "refuted": "confirmed", "inconclusive": "inconclusive"}
    assert word_of(figure(low, high), mirrored) == swapped[word]


@given(intervals, st.floats(0, 5), st.sampled_from([(None, 1.0), (1.0, None), (0.0, 1.0)]))
def test_a_wider_interval_is_decided_no_better(interval: list[float], more: float, region: Region) -> None:
    low, high = interval
    if within(figure(low - more, high + more), region):
        assert within(figure(low, high), region)


@given(intervals)
def test_what_no_figure_can_refute_is_confirmed_or_inconclusive(interval: list[float]) -> None:
    criterion = Criterion(figure="a", confirmed=(0, None), refuted=None, says="It is there.")
    assert word_of(figure(*interval), criterion) == ("confirmed" if interval[0] >= 0 else "inconclusive")


def test_a_missing_figure_decides_nothing() -> None:
    missing = Figure(label="a", unit="nats", value=None, low=None, high=None, note="3 of 5 trials of mla failed")
    assert word_of(missing, Criterion(figure="a", confirmed=(None, None), refuted=(0, 0), says="")) == "inconclusive"


@given(st.lists(st.sampled_from(["confirmed", "refuted", "inconclusive"]), min_size=1))
def test_a_claim_is_refuted_by_one_condition_and_confirmed_by_all(words: list[Any]) -> None:
    expected = "refuted" if "refuted" in words else "inconclusive" if "inconclusive" in words else "confirmed"
    assert overall(words) == expected


RAW: dict[str, Any] = {
    "number": 1, "name": "micro", "title": "t", "claim": "c", "source": "s", "published": "p", "published_protocol": "",
    "hypothesis": "h", "limits": "l",
    "experiments": [
        {"kind": "compare", "name": "loss", "arms": ["standard", "nope"], "size": "tiny", "gpu": {"size": "mini"},
         "figures": {"nope": {"arm": "nope", "against": "standard", "metric": "bpb"}}},
    ],
    "criteria": [{"figure": "nope", "confirmed": [None, 0], "refuted": [0, None], "says": "It is lower."}],
}  # fmt: skip
TERMS: dict[str, Any] = {
    "cpu": {"compare": {"data": {}, "size": "base", "seeds": 2, "lr_sweep": False, "training": {"batch": 2}}}
}
TERMS["gpu"] = TERMS["cpu"]


def test_an_experiment_takes_what_it_does_not_state_from_the_terms_of_its_scale() -> None:
    sizes = {scale: claim_from(RAW, TERMS, scale).experiments[0].size for scale in SCALES}  # type: ignore[union-attr]
    assert sizes == {"cpu": "tiny", "gpu": "mini"}
    own = {**RAW["experiments"][0], "training": {"lr": 0.01}}
    [experiment] = claim_from({**RAW, "experiments": [own]}, TERMS, "cpu").experiments
    assert isinstance(experiment, Compare) and experiment.training == {"batch": 2, "lr": 0.01}


def test_the_hash_changes_with_the_criteria_and_the_terms() -> None:
    criterion = {**RAW["criteria"][0], "confirmed": [None, -0.01]}
    terms = {"cpu": {"compare": {**TERMS["cpu"]["compare"], "seeds": 3}}}
    hashes = {
        claim_from(RAW, TERMS, "cpu").sha256,
        claim_from({**RAW, "criteria": [criterion]}, TERMS, "cpu").sha256,
        claim_from(RAW, terms, "cpu").sha256,
    }
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"criteria": [{**RAW["criteria"][0], "figure": "nop"}]}, "'nop' is no figure here; did you mean 'nope'?"),
        ({"experiments": [{**RAW["experiments"][0], "arms": ["standard", "mla"]}]}, "'nope' is no arm here"),
        ({"experiments": [{**RAW["experiments"][0], "seed": 2}]}, "unknown key"),
        ({"experiments": [{**RAW["experiments"][0], "training": {"batch": 0}}]}, "batch"),
        ({"hypothesis": None}, "hypothesis = None is not valid"),
    ],
)
def test_a_protocol_that_cannot_be_run_is_refused_in_a_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match="the protocol of claim 'micro'") as error:
        claim_from({**RAW, **change}, TERMS, "cpu")
    assert sentence in str(error.value)


def test_an_unknown_claim_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="unknown claim 'mla-rop'; did you mean 'mla-rope'"):
        claim_named("mla-rop")
