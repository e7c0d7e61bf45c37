import io

import pytest
from rich.console import Console

from litmus.training.display import Display, LineDisplay, LiveDisplay, Status, display_for, duration, evaluation_table
from litmus.training.evaluation import Evaluation

SCORE = Evaluation(
    nats_per_token=1.5,
    bits_per_byte=2.125,
    perplexity=4.48,
    tokens=1000,
    bytes=1018,
    loss_by_position=[3.0, 2.0, 1.0, 1.0],
    attention_entropy=[0.5, 1.25],
)


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=150)


def pipe():
    return Console(file=io.StringIO(), width=150)


def narrate(display):
    display.begin("training toy", 0.0)
    display.step(Status(1, 0.25, 5.0, 100, 1.0))
    display.validated(1, SCORE)
    display.sample(1, "once upon [bold]a time")
    display.step(Status(4, 1.0, 5.0, 400, 2.0))
    display.end()


def test_a_terminal_gets_the_live_view_and_a_pipe_plain_lines():
    assert isinstance(display_for(terminal()), LiveDisplay)
    assert isinstance(display_for(pipe()), LineDisplay)


@pytest.mark.parametrize("make", [terminal, pipe])
def test_both_show_loss_bits_per_byte_speed_and_time_left(make):
    display = display_for(make())
    narrate(display)
    written = display.console.file.getvalue()
    for part in ("training toy", "loss 5.000", "bpb 2.125", "300 tokens/s", "0:00 left", "100%"):
        assert part in written
    assert "once upon [bold]a time" in written  # a sample is text, not markup


def test_plain_lines_have_no_control_codes():
    display = display_for(pipe())
    narrate(display)
    assert "\x1b" not in display.console.file.getvalue()


def test_steps_in_quick_succession_are_not_all_shown():
    display = LineDisplay(pipe())
    display.begin("training", 0.0)
    for step in range(1, 1000):
        display.step(Status(step, step / 1000, 5.0, 100 * step, step / 1000))
    assert len(display.console.file.getvalue().splitlines()) < 10


def test_a_display_that_shows_nothing_can_be_told_everything():
    narrate(Display())


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (42, "0:42"), (725, "12:05"), (12_000, "3:20:00")])
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text


def test_an_evaluation_is_shown_with_its_curve_over_positions():
    console = Console(file=io.StringIO(), width=150)
    console.print(evaluation_table(SCORE))
    written = console.file.getvalue()
    for part in ("2.1250", "1.5000", "4.48", "1,000 tokens, 1,018 bytes", "3.00 █▅▁▁ 1.00", "0.50  1.25"):
        assert part in written
