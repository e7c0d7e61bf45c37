"""Comparisons: equal terms, paired trials, statistics, verdicts and the report."""

from litmus.comparison.compare import ARMS, DEFAULT_TRAINING, Comparison, compare
from litmus.comparison.report import Section
from litmus.comparison.results import ComparisonResult, TrialResult

__all__ = ["ARMS", "DEFAULT_TRAINING", "Comparison", "ComparisonResult", "Section", "TrialResult", "compare"]
