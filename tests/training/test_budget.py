import pytest
from hypothesis import given
from hypothesis import strategies as st

from litmus.errors import BadInput
from litmus.training.budget import Budget, Usage


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("300 steps", 300, "steps"),
        ("1 step", 1, "steps"),
        ("2.5k steps", 2500, "steps"),
        ("2M tokens", 2e6, "tokens"),
        ("1.5B tokens", 1.5e9, "tokens"),
        ("1_000 tokens", 1000, "tokens"),
        ("60s", 60, "seconds"),
        ("90 seconds", 90, "seconds"),
        ("5min", 300, "seconds"),
        ("1.5 h", 5400, "seconds"),
        ("1e15 flops", 1e15, "flops"),
        ("1 PFLOP", 1e15, "flops"),
        ("3 TFLOPs", 3e12, "flops"),
    ],
)
def test_budgets_are_read_as_people_write_them(text, amount, unit):
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize("text", ["0 steps", "-3 steps", "0s", "0", "1e999 flops", "-1 PFLOP"])
def test_a_budget_that_buys_nothing_is_refused(text):
    with pytest.raises(BadInput, match="not a positive amount"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["500", "5M", "5 m", "3 epochs", "steps", "", "2.5 steps", "nan steps", "ten steps"])
def test_a_budget_that_cannot_be_read_is_refused_with_examples(text):
    with pytest.raises(BadInput, match="300 steps"):
        Budget.parse(text)


@given(amount=st.integers(1, 10**9), unit=st.sampled_from(["steps", "tokens", "seconds", "FLOPs"]))
def test_a_budget_written_out_reads_as_itself(amount, unit):
    budget = Budget.parse(f"{amount} {unit}")
    assert Budget.parse(str(budget).replace(",", "")) == budget


@given(
    unit=st.sampled_from(["steps", "tokens", "seconds", "flops"]),
    amount=st.floats(1, 1e9),
    costs=st.lists(st.integers(1, 1000), max_size=20),
)
def test_the_share_spent_only_grows_and_stays_between_0_and_1(unit, amount, costs):
    budget, usage = Budget(amount, unit), Usage()
    fractions = [budget.fraction(usage)]
    for cost in costs:
        step = Usage(1, cost, cost / 10, cost * 1e6)
        midway = budget.fraction_mid_step(usage, step)
        usage = usage + step
        assert fractions[-1] <= midway <= budget.fraction(usage)
        fractions.append(budget.fraction(usage))
    assert fractions[0] == 0
    assert fractions == sorted(fractions)
    assert fractions[-1] <= 1


def test_the_number_of_steps_covers_the_budget_and_is_unknown_for_seconds():
    step = Usage(1, 2048, 0.0, 2048 * 1e6)
    assert Budget.parse("300 steps").steps(step) == 300
    assert Budget.parse("2049 tokens").steps(step) == 2
    assert Budget.parse("1e9 flops").steps(step) == 1
    assert Budget.parse("1 min").steps(step) is None
