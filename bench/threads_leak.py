"""A causal model and one that sees the future, trained on the same conversations: perplexity, ends, samples.

    python bench/threads_leak.py SOURCE --runs chat-runs   # 15 minutes a model on one core; continues
    python bench/threads_leak.py SOURCE --runs chat-runs --steps 3000

Trains `roleplay` and specimens/f1_linformer_over_time.py, the published form of its attention, with the preset
roleplay-lab at size tiny. Writes its page and figure in docs/results.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
import measure

import litmus
from litmus import runs
from litmus.data import DataSettings
from litmus.generation.chat.replies import Replies
from litmus.training.display import Display
from litmus.training.run.result import RunResult, read_result
from litmus.training.settings import PRESETS
from litmus.training.thread_scores import ThreadScores

SPECIMEN = Path(__file__).parents[1] / "specimens" / "f1_linformer_over_time.py"
ARMS = {"roleplay, causal": "roleplay", "as published, sees the future": SPECIMEN}
REPLIES, SHOWN = 50, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="conversations: a file, a folder or hf:OWNER/NAME:SPLIT")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs, kept")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--limit-tokens", type=int, help="target tokens that are scored; all by default")
    given = parser.parse_args()
    preset = PRESETS["roleplay-lab"]
    settings = {**preset.training, "budget": f"{given.steps} steps", "threads": 1, "precision": "fp32"}
    folders = {}
    for number, (arm, recipe) in enumerate(ARMS.items()):
        folders[arm] = given.runs / ("causal", "leak")[number]
        if read_result(folders[arm]) is None:
            data = DataSettings.model_validate({"corpus": f"threads:{given.source}", "chat": preset.chat})
            options = {"size": "tiny", "overrides": preset.recipe, "keep_failed": True, "display": Display()}
            litmus.train(recipe, data, folder=folders[arm], **options, **settings)
    results = {arm: read_result(folder) for arm, folder in folders.items()}
    rows, samples, scored = [], [], {}
    for arm, folder in folders.items():
        score = litmus.evaluate(folder, limit_tokens=given.limit_tokens)
        said = runs.replies(folder, count=REPLIES)
        threads = score.threads
        assert threads is not None
        scored[arm] = threads
        rows.append(
            [
                arm,
                f"{score.perplexity:.3g} ({threads.perplexity_low:.3g} to {threads.perplexity_high:.3g})",
                f"{threads.end_probability:.1%}",
                f"{threads.false_end_probability:.2%}",
                f"{said.ended:.0%}",
                f"{said.stats.distinct_2:.0%}",
                f"{said.stats.echo:.1%}",
            ]
        )
        samples += [f"## Replies: {arm}", "", *replies(said), ""]
    draw(results, scored)
    measure.write_table(
        "threads_leak",
        "What a leak looks like on conversations",
        [
            "model",
            "perplexity of target tokens (95 %)",
            "P(end) at true ends",
            "P(end) elsewhere",
            "replies that end in 30 tokens",
            "distinct pairs of words",
            "4-grams of the context",
        ],
        rows,
        [
            f"{given.steps} steps of {settings['batch']} x {settings['context']} tokens at size tiny; 50 replies to "
            "held-out contexts at temperature 0.8, top-k 50. The specimen's keys and values are sums over the whole "
            "window: its loss measures copying, and when it writes, the future it has learned to read is not there.",
            "",
            "![perplexity by step](threads_leak.svg)",
            "",
            "The curve scores the validation threads; the bar at its end is the interval of the table, over all "
            "held-out threads.",
            "",
            *samples,
        ],
    )


def replies(said: Replies) -> list[str]:
    """The first replies as a list; none is chosen."""
    return [
        f"{number}. `{' '.join(sample.reply.split()) or '(nothing)'}`" + ("" if sample.ended else " …")
        for number, sample in enumerate(said.samples[:SHOWN], 1)
    ]


def draw(results: dict[str, RunResult | None], scored: dict[str, ThreadScores]) -> None:
    """Perplexity of held-out targets by training step; at the end that of all, with its interval over threads."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "litmus"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for arm, result in results.items():
        assert result is not None
        (line,) = axes.plot(
            [p.step for p in result.curve], [math.exp(p.val_loss) for p in result.curve], marker=".", label=arm
        )
        low, high = scored[arm].perplexity_low, scored[arm].perplexity_high
        axes.vlines(result.curve[-1].step, low, high, color=line.get_color(), linewidth=3)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("perplexity of held-out targets")
    axes.legend(frameon=False)
    figure.savefig(measure.RESULTS / "threads_leak.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
