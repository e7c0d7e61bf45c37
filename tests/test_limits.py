"""Time limits for untrusted code."""

from __future__ import annotations

import os
import time

import pytest

from litmus.limits import TICK_SECONDS, TimeLimitExceeded, patience, timeout


@pytest.mark.parametrize(("load", "factor"), [(0.1, 1.0), (2.0, 1.0), (6.0, 3.0), (1000.0, 10.0)])
def test_limits_grow_with_the_processes_per_core(monkeypatch: pytest.MonkeyPatch, load: float, factor: float) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert patience() == factor


def test_code_that_needs_longer_ends_normally_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    with pytest.raises(TimeLimitExceeded), timeout(TICK_SECONDS):
        time.sleep(4 * TICK_SECONDS)
    monkeypatch.setattr(os, "getloadavg", lambda: (10.0, 0.0, 0.0))
    with timeout(TICK_SECONDS):
        time.sleep(4 * TICK_SECONDS)
