"""Error rates, power and number of seeds of the verdict rule, on simulated comparisons.

    python bench/verdict_rates.py                  # 20,000 comparisons per figure, some minutes
    python bench/verdict_rates.py --repeats 2000

A difference of one seed is drawn with sd 1 (spread over arms by the factor exp(N(0, spread²))); arms share the
baseline, so their differences are correlated by 1/2. Writes docs/results/verdict_rates.md.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from litmus.comparison.statistics import SHARED_CORRELATION, holm, moderated_estimates, sequential_level

PAGE = Path(__file__).parents[1] / "docs" / "results" / "verdict_rates.md"
ALPHA = 0.05


def simulated(random: np.random.Generator, arms: int, seeds: int, spread: float, gain: float) -> np.ndarray:
    """Differences (arms, seeds); the first arm has the gain."""
    common = random.normal(size=(1, seeds))
    own = random.normal(size=(arms, seeds))
    mixed = np.sqrt(SHARED_CORRELATION) * common + np.sqrt(1 - SHARED_CORRELATION) * own
    differences = mixed * np.exp(spread * random.normal(size=(arms, 1)))
    differences[0] += gain
    return differences


def new_rule(differences: np.ndarray, first: int, earlier: list[list[float]]) -> tuple[list[bool], list[int]]:
    """Whether each arm is called different, and the seeds that it took; from `first` on seeds are added.

    earlier: differences of other comparisons, whose variance counts (`--prior`).
    """
    last = differences.shape[1]
    level = partial(sequential_level, first, last) if first < last else float
    seeds, called = [last] * len(differences), [False] * len(differences)
    for count in range(first, last + 1):
        order = sorted(range(len(differences)), key=lambda arm: called[arm])
        waiting = len(differences) - sum(called)
        estimates = moderated_estimates([*differences[order, :count].tolist(), *earlier])[:waiting]
        levels = holm([estimate.p_value for estimate in estimates], ALPHA, level)
        for arm, estimate, own in zip(order, estimates, levels, strict=False):
            if estimate.p_value <= own:
                called[arm], seeds[arm] = True, count
    return called, seeds


def old_rule(random: np.random.Generator, differences: np.ndarray) -> tuple[list[bool], list[int]]:
    """Version 0.1.0: each arm by its own t-interval and a noise floor from as many A/A pairs."""
    count = differences.shape[1]
    floor = stats.norm.ppf(1 - ALPHA / 2) * np.sqrt(np.mean(random.normal(size=count) ** 2) / count)
    means, sds = differences.mean(axis=1), differences.std(axis=1, ddof=1)
    half = stats.t.ppf(1 - ALPHA / 2, count - 1) * sds / np.sqrt(count)
    return list((np.abs(means) > half) & (np.abs(means) > floor)), [count] * len(means)


def rates(rule: str, arms: int, spread: float, gain: float, repeats: int, prior: int = 0) -> tuple[float, float, float]:
    """Share of comparisons with a false call, share in which the first arm is called, and its mean number of seeds.

    prior: number of earlier comparisons of two arms, with three seeds and the same spread.
    """
    random = np.random.default_rng(1)
    name, _, seeds = rule.partition(" ")
    first, _, last = seeds.partition("..")
    wrong = hits = used = 0
    for _ in range(repeats):
        differences = simulated(random, arms, int(last or first), spread, gain)
        earlier = [row for _ in range(prior) for row in simulated(random, 1, 3, spread, 0.0).tolist()]
        called, count = old_rule(random, differences) if name == "old" else new_rule(differences, int(first), earlier)
        wrong += any(called[1:] if gain else called)
        hits += called[0]
        used += count[0]
    return wrong / repeats, hits / repeats, used / repeats


PRIORS = (1, 3, 10)
PRIOR_ROWS = (
    ("3: false calls", "new 3", 0.0, 0.0),
    ("3: false calls, spread 0.35", "new 3", 0.35, 0.0),
    ("3: false calls, spread 0.7", "new 3", 0.7, 0.0),
    ("3..12: false calls", "new 3..12", 0.0, 0.0),
    ("3: called at 2 sd", "new 3", 0.0, 2.0),
)
RULES = ("old 3", "old 5", "new 3", "new 5", "new 3..12")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20_000)
    repeats = parser.parse_args().repeats
    lines = [
        "# Error rates and power of the verdict rule",
        "",
        f"`python bench/verdict_rates.py --repeats {repeats}`: simulated comparisons, {repeats:,} per figure.",
        "Differences are in standard deviations of one paired difference. `old`: version 0.1.0 with its noise floor,",
        "whose A/A trainings cost one more training per seed. Spread: sd over arms of the logarithm of that sd.",
        "",
        "## Equal arms: comparisons with at least one false call",
        "",
        "| rule and seeds | 1 arm | 2 arms | 2 arms, spread 0.35 | 2 arms, spread 0.7 | 4 arms |",
        "|---|---|---|---|---|---|",
    ]
    designs = ((1, 0.0), (2, 0.0), (2, 0.35), (2, 0.7), (4, 0.0))
    for rule in RULES:
        found = [rates(rule, arms, spread, 0.0, repeats) for arms, spread in designs]
        cells = " | ".join(f"{100 * wrong:.1f} %" for wrong, _, _ in found)
        lines.append(f"| {rule} | {cells} |")
        print(lines[-1], flush=True)
    gains = (1.0, 1.5, 2.0, 3.0, 4.0)
    lines += [
        "",
        "## One of two arms differs: how often it is called, and the mean number of seeds",
        "",
        f"| rule and seeds | {' | '.join(f'{gain:g} sd' for gain in gains)} |",
        f"|---|{'---|' * len(gains)}",
    ]
    for rule in RULES:
        found = [rates(rule, 2, 0.0, gain, repeats // 4) for gain in gains]
        cells = " | ".join(f"{100 * hits:.0f} %, {used:.1f} seeds" for _, hits, used in found)
        lines.append(f"| {rule} | {cells} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "## With a prior: one arm, and so many earlier comparisons of one arm with 3 seeds (`--prior`)",
        "",
        f"| seeds and figure | {' | '.join(f'{prior} earlier' for prior in (0, *PRIORS))} |",
        f"|---|{'---|' * (1 + len(PRIORS))}",
    ]
    for label, rule, spread, gain in PRIOR_ROWS:
        found = [rates(rule, 1, spread, gain, repeats, prior) for prior in (0, *PRIORS)]
        lines.append(f"| {label} | {' | '.join(f'{100 * hits:.1f} %' for _, hits, _ in found)} |")
        print(lines[-1], flush=True)
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
