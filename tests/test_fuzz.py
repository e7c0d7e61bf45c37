"""Commands given what nobody should give them, and killed at random moments; more with fuzz.py and kills.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def done(*command: str) -> str:
    """What a script of this folder prints; its faults are the failure's text."""
    ended = subprocess.run([sys.executable, *command], cwd=HERE.parent, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    return ended.stdout


def test_no_input_makes_a_traceback_a_hang_or_a_lost_file() -> None:
    assert "24 cases" in done("tests/fuzz.py", "--cases", "24", "--seed", "11")


def test_what_is_killed_and_repeated_is_bit_equal_to_what_was_left_alone() -> None:
    """Trainings and comparisons are killed by tests of their own."""
    assert "3 signals" in done("tests/kills.py", "--kills", "2", "--interrupts", "1", "--only", "prepare")
