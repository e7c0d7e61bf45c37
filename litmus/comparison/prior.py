"""Differences of earlier comparisons on the same terms, whose variance a verdict can draw on (`--prior RUNS`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litmus.comparison.plan import Plan, current_content
from litmus.comparison.results import ComparisonResult, EarlierDifferences
from litmus.comparison.verdicts import judge
from litmus.errors import BadInput, shown
from litmus.yaml_json import read_json

Pair = tuple[frozenset[str], set[int]]
"""Two architectures and the seeds of their trials."""

_SIZE = ("dim", "depth", "heads", "vocab_size", "context")


def earlier_differences(
    runs: Path, plan: Plan, primary: str, seeds: range, files: tuple[str, str]
) -> list[EarlierDifferences]:
    """The differences of finished comparisons in `runs` with this plan's size, data, training settings and metric.

    Only comparisons whose number of seeds was fixed: a small variance ends the others early. Two architectures count
    once per seed, those of this plan not at all on its own `seeds`. files: the names of a comparison's plan and result.
    """
    if not runs.is_dir():
        raise BadInput(f"there is no folder of runs {shown(str(runs))}; --prior takes one that holds comparisons")
    own = [_key(recipe.to_dict()) for recipe in plan.arms.values()]
    taken: list[Pair] = [(frozenset({own[0], key}), set(seeds)) for key in own[1:]]
    found: list[EarlierDifferences] = []
    for folder in sorted(path.parent for path in runs.glob(f"*/{files[1]}")):
        try:
            content, result = current_content(read_json(folder / files[0])), ComparisonResult.load(folder / files[1])
            if _terms(content) == _terms(plan.content()) and result.looks is None and result.primary == primary:
                found += _new(folder.name, result, content["arms"], taken)
        except (BadInput, KeyError, TypeError, AttributeError):  # damaged, or of another version
            continue
    return found


def _new(name: str, result: ComparisonResult, arms: dict[str, Any], taken: list[Pair]) -> Iterator[EarlierDifferences]:
    """The differences of judged arms that are not among those taken, to which they are added."""
    for verdict in judge(result):
        pair = frozenset({_key(arms[verdict.baseline]), _key(arms[verdict.arm])})
        seeds = set(verdict.differences)
        if verdict.word != "no verdict" and not any(pair == other and seeds & used for other, used in taken):
            taken.append((pair, seeds))
            yield EarlierDifferences(comparison=name, arm=verdict.arm, values=list(verdict.differences.values()))


def _key(recipe: dict[str, Any]) -> str:
    """What two recipes have in common if they are the same architecture."""
    plugin = (recipe.get("plugin") or {}).get("sha256")
    rest = {key: value for key, value in recipe.items() if key not in ("name", "about", "plugin")}
    return json.dumps({**rest, "plugin": plugin}, sort_keys=True)


def _terms(content: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for the variances of two comparisons to be alike."""
    baseline = next(iter(content["arms"].values()))
    training = {key: value for key, value in content["training"].items() if key not in ("seed", "threads", "device")}
    shared = {key: content[key] for key in ("data_fingerprint", "lr_sweep", "method")}
    return {**shared, "training": training, "size": {key: baseline[key] for key in _SIZE}}
