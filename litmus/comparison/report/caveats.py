"""What a reader must know before believing the verdicts of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from litmus.comparison.learning_rate import LearningRateChoice
from litmus.comparison.results import ComparisonResult
from litmus.comparison.summary import ArmSummary
from litmus.comparison.verdicts import measured_noise
from litmus.comparison.wording import rate


def caveats(
    result: ComparisonResult, summaries: Sequence[ArmSummary], choices: Sequence[LearningRateChoice]
) -> Iterator[tuple[str, str]]:
    """(heading, sentence) of each caveat that applies to this comparison."""
    verdicts = [summary.verdict for summary in summaries if not summary.is_baseline and summary.verdict]
    judged = sum(verdict.word != "no verdict" for verdict in verdicts)
    if judged > 1:
        chance = 1 - result.confidence**judged
        yield (
            "Several verdicts",
            f"Each verdict holds at {result.confidence:.0%} by itself. With {judged} of them, one false call "
            f"somewhere is likelier: up to about {chance:.0%} if no arm truly differed.",
        )
    yield (
        "A small budget",
        f"These are small models trained for a short while ({result.budget}). What wins here can lose at another "
        f"size, on other text, or with longer training.",
    )
    if not choices:
        yield (
            "Learning rates",
            "No arm's learning rate was tuned in this comparison. An arm may do better at another one; "
            "--lr-sweep looks for it.",
        )
    edges = [f"{choice.arm} at {rate(choice.lr)}" for choice in choices if choice.at_edge and choice.lr is not None]
    if edges:
        yield (
            "Learning rates at the edge",
            f"The best learning rate was the smallest or largest tried for {', '.join(edges)}: "
            f"a better one may lie beyond.",
        )
    yield (
        "Effective speed-up",
        "It depends on the schedule: the learning rate falls as the budget is spent, so the time to reach a loss "
        "would be another under another budget. Like all times here it holds for this machine, as busy as it was.",
    )
    yield "Noise floor", f"Estimated from {_source_of_noise(result)}. A handful of trainings gives a rough estimate."


def _source_of_noise(result: ComparisonResult) -> str:
    noise = measured_noise(result)
    if noise.source == "retrained":
        times = f"{noise.pairs} retraining{'s' * (noise.pairs != 1)}"
        return f"{times} of the baseline on the same data, from another init"
    return "the spread of the baseline's own seeds, whose data order differs too, so it is rather too high than too low"
