"""When do super weights appear? Candidates at the checkpoints of trainings that differ in their attention, with seeds.

    python bench/superweights_track.py --runs track-runs                      # goes on where it was stopped
    python bench/superweights_track.py --runs /tmp/x --steps 40 --seeds 1 --out /tmp/x   # to try it

Writes its page and figure in docs/results.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from measure import RESULTS, Kept, write_table

from litmus.compression.source import load_source, text_blocks, text_of
from litmus.compression.superweights import MIN_EFFECT, MIN_RATIO
from litmus.compression.tracking import track_checkpoints
from litmus.data import DataSettings
from litmus.model import resolve
from litmus.training import TrainSettings
from litmus.training.trainer import train_run

RECIPES = ("standard", "ssmax", "gated", "nope")


def main() -> None:
    """Train, search, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs, kept")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the page")
    given = parser.parse_args()
    every = max(1, given.steps // given.checkpoints)
    settings = {"budget": f"{given.steps} steps", "validate_every": every, "checkpoint_minutes": None, "threads": 1}
    given.runs.mkdir(parents=True, exist_ok=True)
    kept, found = Kept(given.runs / f"tracked-{given.steps}.jsonl"), {}
    for seed in range(given.seeds):
        for recipe in RECIPES:
            folder = given.runs / f"{recipe}-{seed}"
            options = TrainSettings(**settings, keep_last=given.steps // every + 1, seed=seed)
            train_run(resolve(recipe, size=given.size), DataSettings(corpus=given.data), options, folder)
            found[recipe, seed] = kept.get(f"{recipe} {seed}", partial(tracked, folder))
            print(recipe, seed, found[recipe, seed][-1], flush=True)
    found = {key: found[key] for key in sorted(found, key=lambda key: (RECIPES.index(key[0]), key[1]))}
    draw(found, given.out)
    write_table(
        "superweights-track",
        "When super weights appear",
        ["recipe", "seed", "first spike", "first that costs", "largest spike", "costliest candidate", "at the end"],
        [[recipe, seed, *summary(steps)] for (recipe, seed), steps in found.items()],
        (
            f"{given.steps} steps at size {given.size} on `{given.data}`, searched every {every} steps.",
            f"first spike: the step of the first candidate, an input and an output {MIN_RATIO:g} times the median",
            f"channel's. first that costs: that of the first candidate without which the loss is {MIN_EFFECT:g} nats",
            "per token higher, beyond its interval. largest spike, costliest candidate: at the last step, in multiples",
            "of the median and in nats per token, with the largest control.",
            "",
            "![spikes and costs by step](superweights-track.svg)",
        ),
        given.out,
    )


def tracked(folder: Path) -> list[dict[str, Any]]:
    """What the search finds at each checkpoint of a run."""
    source = load_source(folder)
    searches = track_checkpoints(source, text_blocks(source, text_of(source, None)), controls=3)
    found = []
    for step, search in searches.items():
        one = search.candidates[0] if search.candidates else None
        costs = None if one is None or one.increase is None else vars(one.increase)
        control = None if one is None else one.largest_control
        verdict = {"verdict": search.verdict, "spike": search.largest_spike}
        found.append({"step": step, **verdict, "costs": costs, "control": control})
    return found


def summary(steps: list[dict[str, Any]]) -> list[str]:
    """A run's columns of the table."""
    spiking = [one["step"] for one in steps if one["costs"] is not None]
    costly = [
        one["step"] for one in steps if one["costs"] and min(one["costs"]["low"], one["costs"]["mean"] - MIN_EFFECT) > 0
    ]
    last = steps[-1]
    costs = "–" if last["costs"] is None else f"{last['costs']['mean']:+.3f} ({last['control']:.2g})"
    firsts = [str(min(found)) if found else "none" for found in (spiking, costly)]
    return [*firsts, f"{last['spike']:.1f}x", costs, last["verdict"]]


def draw(found: dict[tuple[str, int], list[dict[str, Any]]], folder: Path) -> None:
    """The largest spike, and what zeroing the costliest candidate costs, by step."""
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "litmus", "svg.fonttype": "none"}
    from matplotlib import pyplot

    any_costs = any(one["costs"] is not None for steps in found.values() for one in steps)
    figure, panels = pyplot.subplots(1, 1 + any_costs, figsize=(4 + 4 * any_costs, 3.2), layout="constrained")
    spikes, costs = panels if any_costs else (panels, None)
    for (recipe, seed), steps in found.items():
        style = {"color": f"C{RECIPES.index(recipe)}", "linewidth": 1, "label": recipe if seed == 0 else None}
        spikes.plot([one["step"] for one in steps], [one["spike"] for one in steps], **style)
        if costs is not None:
            searched = [one for one in steps if one["costs"] is not None]
            means = [one["costs"]["mean"] for one in searched]
            costs.plot([one["step"] for one in searched], means, marker=".", **style)
    spikes.axhline(MIN_RATIO, color="grey", linewidth=0.8, linestyle="--")
    spikes.set_yscale("log")
    spikes.set_yticks([2, 4, 8], ["2", "4", "8"])
    spikes.minorticks_off()
    for axes, title in ((spikes, "largest spike, multiple of the median"), (costs, "loss increase, nats per token")):
        if axes is not None:
            axes.set_title(title, loc="left", fontsize=9.5)
            axes.set_xlabel("step")
    spikes.legend(frameon=False, fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "superweights-track.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
