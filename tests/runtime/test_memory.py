"""Peak memory of a process."""

from __future__ import annotations

import subprocess
import sys

import torch

from litmus.runtime.memory import process_peak_bytes


def test_the_peak_of_a_process_does_not_begin_at_what_its_parent_held() -> None:
    held = torch.ones(200 * 2**20, dtype=torch.uint8)
    code = "from litmus.runtime.memory import process_peak_bytes; print(process_peak_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < process_peak_bytes() - held.nbytes / 2
