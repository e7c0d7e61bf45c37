"""What every benchmark shares: sides measured in turn in one process, medians of ratios, and the table they end in."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from litmus.runtime.hardware import cpu_name

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each side per round: A B C A B C ..., so that a drift of the machine meets all sides alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmup + rounds):
        for name, side in sides.items():
            synchronize()
            start = time.perf_counter()
            side()
            synchronize()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios over/under, round by round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def spread(over: Sequence[float], under: Sequence[float], digits: int = 2) -> str:
    """The median ratio with the middle half of the rounds, as '1.42 (1.38 to 1.45)'."""
    ratios = sorted(a / b for a, b in zip(over, under, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


class Kept:
    """Measurements by name in a file of JSON lines, so that a benchmark that was stopped goes on; in memory without."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._found = file, {}
        if file is not None and file.exists():
            self._found = {name: value for name, value in map(json.loads, file.read_text("utf-8").splitlines())}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """The measurement of that name, as JSON holds it: kept from before, or made now."""
        if name not in self._found:
            line = json.dumps([name, measure()])
            self._found[name] = json.loads(line)[1]
            if self._file is not None:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        return self._found[name]


def synchronize() -> None:
    """Wait for the GPU, where there is one, so that time is the time of finished work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_table(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    notes: Sequence[str] = (),
    folder: Path = RESULTS,
) -> None:
    """Write the page of that name in `folder`, with the machine, the command and the table, and print it."""
    lines = [f"# {title}", "", f"Machine: {machine()}  ", f"Command: `{command()}`", ""]
    lines += table(columns, rows)
    lines += ["", *notes] if notes else []
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def machine() -> str:
    """The processor or GPU, threads, torch, and what its matmuls reach: the ceiling of every figure beside it."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    rates = ", ".join(
        f"{name} {gigaflops(dtype):.0f}" for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    )
    return f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}; matmul GFLOP/s: {rates}"


def gigaflops(dtype: torch.dtype, side: int = 1024) -> float:
    """What one square matmul of this type reaches, the best of a few, in GFLOP/s."""
    a = torch.randn(side, side).to(dtype)
    best = min(interleaved({"matmul": lambda: a @ a}, rounds=8)["matmul"])
    return 2 * side**3 / best / 1e9


def command() -> str:
    """The command line that repeats this benchmark, from the repository's root; absolute paths by their names."""
    threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""
    given = [os.path.basename(word) if os.path.isabs(word) else word for word in sys.argv[1:]]
    return f"{threads}python {shlex.join([f'bench/{os.path.basename(sys.argv[0])}', *given])}"
