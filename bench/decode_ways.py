"""The table of what `litmus bench decode --json FILE` has measured. Writes decode_<model>.md.

    litmus bench decode minideepseek-small --prompt-tokens 128,1024,4096 --batch 1 --new-tokens 6 --repeats 3 \\
        --threads 2 --json decode.json --figure docs/results/decode_minideepseek_small.png
    python bench/decode_ways.py decode.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from measure import write_table


def rows_of(cells: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """One row per strategy, prompt length and batch; the speed is relative to the first strategy of the group."""
    rows, first = [], {}
    for cell in cells:
        per_token = cell["per_token"]
        group = cell["batch"], cell["prompt_tokens"]
        base = first.setdefault(group, per_token["median"])
        rows.append(
            (
                *group,
                cell["strategy"],
                f"{1e3 * cell['first_token']['median']:,.1f}",
                f"{1e3 * per_token['median']:,.2f} ({1e3 * per_token['low']:,.2f} to {1e3 * per_token['high']:,.2f})",
                f"{base / per_token['median']:.1f}",
                f"{cell['cache_bytes'] / 2**20:,.2f}",
            )
        )
    return rows


def flatness(cells: list[dict[str, Any]]) -> list[str]:
    """Per strategy with a cache: time per token after the longest prompt relative to the shortest."""
    lines = []
    for strategy in dict.fromkeys(cell["strategy"] for cell in cells if cell["cache_bytes"]):
        own = sorted((cell for cell in cells if cell["strategy"] == strategy), key=lambda cell: cell["prompt_tokens"])
        grown = own[-1]["per_token"]["median"] / own[0]["per_token"]["median"]
        lengths = f"{own[-1]['prompt_tokens']:,} tokens against {own[0]['prompt_tokens']:,}"
        lines.append(f"- {strategy}: a token after {lengths} takes {grown:.2f} times as long")
    return lines


def main() -> None:
    """Read the JSON and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="what litmus bench decode wrote")
    measured = json.loads(parser.parse_args().json.read_text(encoding="utf-8"))
    cells = measured["cells"]
    name = f"decode_{measured['model'].replace('-', '_')}"
    write_table(
        name,
        f"Decoding {measured['model']}, strategy by strategy",
        (
            "texts",
            "prompt",
            "strategy",
            "first token, ms",
            "ms per token (middle half)",
            "times the first strategy's speed",
            "cache, MiB",
        ),
        rows_of(cells),
        [
            f"{measured['new_tokens']} new tokens, medians of {measured['repeats']} interleaved runs of each strategy "
            f"on {measured['threads']} threads of {measured['hardware']['cpu']}, by `litmus bench decode` as the "
            "script's head shows. The founding benchmark's strategies come first; `litmus` has weights packed for the "
            "machine, int8 has bf16 activations. All strategies but int8, which rounds, are first checked to "
            "generate the same tokens.",
            "",
            *flatness(cells),
            "",
            f"![Total, per token, first token, by position]({name}.png)",
        ],
    )


if __name__ == "__main__":
    main()
