"""Memory and time of head and loss at GPT-2's vocabulary: in chunks against the whole logits at once.

Each side runs in a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from measure import write_table

from litmus.nn import reference_path
from litmus.nn.objectives.cross_entropy import cross_entropy
from litmus.runtime.memory import process_peak_bytes

TOKENS, DIM, VOCABULARY = 4096, 768, 50257


def once(fast: bool, dtype: torch.dtype) -> dict[str, float]:
    """Peak memory in MB above what model and inputs take, and seconds, of one forward and backward."""
    torch.set_num_threads(2)
    weight = torch.randn(VOCABULARY, DIM).mul_(0.02).to(dtype).requires_grad_()
    hidden = torch.randn(TOKENS, DIM).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,))
    before = process_peak_bytes()
    start = time.perf_counter()
    with reference_path(not fast):
        cross_entropy(hidden, weight, None, targets).backward()
    seconds = time.perf_counter() - start
    return {"mb": (process_peak_bytes() - before) / 2**20, "seconds": seconds}


def main() -> None:
    """Measure, and write docs/results/head_memory.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", help="run one side and print it as JSON: chunked-fp32, whole-fp32, ...-bf16")
    arguments = parser.parse_args()
    if arguments.side:
        how, _, dtype = arguments.side.partition("-")
        print(json.dumps(once(how == "chunked", {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])))
        return
    torch.set_num_threads(2)
    sides = [f"{how}-{dtype}" for dtype in ("fp32", "bf16") for how in ("whole", "chunked")]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side in sides:
            output = subprocess.run([sys.executable, sys.argv[0], "--side", side], capture_output=True, check=True)
            found[side].append(json.loads(output.stdout))
    rows = []
    for side in sides:
        megabytes = statistics.median(run["mb"] for run in found[side])
        seconds = statistics.median(run["seconds"] for run in found[side])
        whole = found[f"whole-{side.partition('-')[2]}"]
        pairs = list(zip(found[side], whole, strict=True))
        memory = statistics.median(run["mb"] / other["mb"] for run, other in pairs)
        duration = statistics.median(run["seconds"] / other["seconds"] for run, other in pairs)
        rows.append((side, f"{megabytes:,.0f}", f"{memory:.2f}", f"{seconds:.2f}", f"{duration:.2f}"))
    write_table(
        "head_memory",
        "Head and loss at vocabulary 50257",
        ("side", "peak MB above inputs", "times the whole's memory", "seconds", "times the whole's time"),
        rows,
        [f"{TOKENS} tokens, {DIM} wide; forward and backward, gradients of hidden vectors and weight included."],
    )


if __name__ == "__main__":
    main()
