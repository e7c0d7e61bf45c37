"""The HTML report: its contents, that it is self-contained, and that no text is taken for markup."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from litmus.comparison.report.formatting import verdict_sentence
from litmus.comparison.report.page import Section, render_page, save_report
from litmus.comparison.report.summary import summarize
from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.errors import BadInput
from litmus.training.run.result import CurvePoint

Results = Callable[..., ComparisonResult]
Trials = Callable[..., TrialResult]

STANDARD, AGAIN = [2.30, 2.32, 2.31], [2.302, 2.319, 2.309]
SCORES = {"standard": STANDARD, "gated": [2.20, 2.221, 2.209], "nope": [2.40, 2.421, 2.409], "leak": [0.3, 0.3, 0.3]}
TERMS = {
    "arm_notes": {"leak": "fails audit: sees the future"},
    "context": {"command": "litmus compare standard gated", "data": {"corpus": "stdlib", "fingerprint": "6e1f2c"}},
}


@pytest.fixture(scope="module")
def page(result: Results) -> str:
    return render_page(result(SCORES, AGAIN, **TERMS))


def text_of(page: str) -> str:
    """The text outside the figures, with single spaces."""
    bare = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", bare)).split())


def figures_of(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


class Tags(HTMLParser):
    """Checks that tags are properly nested, and collects ids."""

    VOID = frozenset({"meta", "br", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag


def test_nothing_on_the_page_is_fetched_or_run(page: str) -> None:
    assert "<script" not in page
    assert "@import" not in page
    assert not re.findall(r"<(?:link|img|iframe|object)\b", page)
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)
    assert not re.findall(r"url\((?!#)", page)


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids)) > 5
    for figure in figures_of(page):
        ElementTree.fromstring(figure)


def test_the_verdicts_come_first_each_with_its_sentence(page: str, result: Results) -> None:
    text = text_of(page)
    assert "Better than standard: gated. Worse than standard: nope. No verdict: leak." in text
    assert text.index("Better than standard") < text.index("Bits per byte")
    for summary in summarize(result(SCORES, AGAIN, **TERMS)):
        assert summary.verdict is not None and verdict_sentence(summary.verdict) in text


def test_an_arm_with_a_finding_is_in_no_figure_and_shows_no_score(page: str) -> None:
    assert figures_of(page)
    assert not any("leak" in figure for figure in figures_of(page))
    assert "0.30" not in text_of(page)
    assert "def leak(self)" not in page


def test_figures_take_every_colour_from_the_page_so_that_dark_mode_and_print_can_change_them(page: str) -> None:
    for figure in figures_of(page):
        assert "var(--arm-0)" in figure
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", figure)


def test_both_costs_have_a_curve_and_the_context_its_own(page: str) -> None:
    words = " ".join(figures_of(page))
    for axis in ("tokens trained on", "seconds of training", "position in the window", "layer", "difference in bits"):
        assert axis in words


def test_the_page_says_how_to_repeat_it_on_which_data(page: str) -> None:
    assert "litmus compare standard gated" in text_of(page)
    assert "6e1f2c" in text_of(page)


def test_names_and_samples_are_shown_not_interpreted(result: Results, trial: Trials) -> None:
    name = "<b>$x^2$</b>"
    trials = [trial("standard", seed, 2.3 + seed / 100) for seed in range(2)]
    trials += [trial(name, seed, 2.3, sample="</pre><script>alert(1)</script>") for seed in range(2)]
    page = render_page(result({"standard": [], name: []}, trials=trials))
    assert "<script" not in page and "<b>$x" not in page
    assert "</pre><script>alert(1)</script>" in text_of(page)
    assert any("<b>$x^2$</b>" in html.unescape(figure) for figure in figures_of(page))


def test_a_section_of_another_part_is_shown_with_its_figure(result: Results) -> None:
    figure = Figure()
    figure.add_subplot().plot([0, 1], [0, 1])
    sections = [Section("Audit", "<p>all <i>pass</i></p>", "what & why"), Section("Expert load", figure)]
    page = render_page(result({"standard": STANDARD, "idea": STANDARD}), sections)
    assert "<p>all <i>pass</i></p>" in page and "what &amp; why" in page
    assert 'aria-label="Expert load"' in page


def test_caveats_of_a_verdict_are_stated(result: Results, trial: Trials) -> None:
    text = text_of(render_page(result({"standard": STANDARD, "a": STANDARD, "b": STANDARD}, AGAIN)))
    assert "hold for all verdicts together" in text
    assert "No arm's learning rate was tuned" in text
    assert "depends on the schedule" in text

    two = result({"standard": STANDARD, "idea": STANDARD})
    sweep = [trial("idea", 0, bpb, "sweep", lr=lr) for lr, bpb in ((1e-3, 2.5), (1e-2, 2.4))]
    text = text_of(render_page(two.model_copy(update={"trials": two.trials + sweep})))
    assert "idea at 0.01: a better one may lie outside the grid" in text

    text = text_of(render_page(result({"standard": STANDARD, "idea": STANDARD}, looks=(3, 12), margin=0.5)))
    assert "Seeds were added until every arm was decided" in text
    assert "The margin is grey" in text


def test_a_cost_is_stated_with_a_gain(result: Results, trial: Trials) -> None:
    trials = [trial("standard", seed, bpb) for seed, bpb in enumerate(STANDARD)]
    trials += [trial("idea", seed, bpb - 0.1, tokens_per_second=80.0) for seed, bpb in enumerate(STANDARD)]
    assert "tokens per second −20 %" in text_of(render_page(result({"standard": [], "idea": []}, trials=trials)))


def test_trials_without_curves_samples_or_entropy_still_make_a_page(result: Results, trial: Trials) -> None:
    bare = {"curve": [], "sample": "", "attention_entropy": None, "loss_by_position": []}
    trials = [trial(arm, seed, 2.3 + seed / 10, **bare) for arm in ("standard", "idea") for seed in range(2)]
    assert len(figures_of(render_page(result({"standard": [], "idea": []}, trials=trials)))) == 1


def test_expert_load_and_auxiliary_losses_are_drawn_where_an_arm_has_them(result: Results, trial: Trials) -> None:
    def routing(*loads: float) -> list[dict[str, object]]:
        return [{"load": list(loads), "max_violation": 0.5, "entropy": 1.0, "dead": loads.count(0.0)}]

    curve = [
        CurvePoint(step=s, tokens=s, seconds=s, train_loss=2.0, train_parts={"next_token": 2.0, "mtp_1": 3.0 / s},
                   val_loss=2.0, val_bpb=3.0)
        for s in (1, 2, 3)
    ]  # fmt: skip
    trials = [trial("standard", seed, bpb) for seed, bpb in enumerate(STANDARD)]
    trials += [
        trial("routed", seed, 2.2, curve=curve, routing=routing(*loads), parameters_active=1_000_000)
        for seed, loads in enumerate([(0.75, 0.25, 0.0), (0.0, 0.25, 0.75), (0.25, 0.75, 0.0)])
    ]
    page = render_page(result({"standard": [], "routed": []}, trials=trials))
    heatmap = next(figure for figure in figures_of(page) if "times an even share" in figure)
    assert "routed: 0.00 to 2.25 times an even share" in heatmap, "busiest first in each seed, whatever its number"
    text = text_of(page)
    assert "Expert load" in text and "mtp_1 during training" in text and "next_token during" not in text
    assert "1.00M active" in text and "active parameters −41 %" in text
    assert "Expert load" not in text_of(render_page(result(SCORES, AGAIN)))


def test_a_large_comparison_stays_under_two_megabytes(result: Results, trial: Trials) -> None:
    arms = [f"arm{number}" for number in range(9)]
    long = {"loss_by_position": [1 / (1 + t) for t in range(8192)], "sample": "word " * 100_000}
    trials = [trial(arm, seed, 2.3 + seed / 10, **long) for arm in arms for seed in range(3)]
    page = render_page(result({arm: [] for arm in arms}, trials=trials))
    assert len(page.encode()) < 2_000_000


def test_one_seed_is_bad_input_and_writes_nothing(result: Results, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least 2 seeds"):
        save_report(result({"standard": [2.3], "idea": [2.3]}), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_the_same_result_makes_the_same_page(page: str, result: Results, tmp_path: Path) -> None:
    saved = save_report(result(SCORES, AGAIN, **TERMS), tmp_path / "report.html")
    assert saved.read_text(encoding="utf-8") == page


def test_a_baseline_that_failed_is_not_drawn_as_zero_among_the_curves(result: Results, trial: Trials) -> None:
    trials = [trial("standard", seed, 2.3, failed="diverged at step 4") for seed in range(2)]
    trials += [trial("idea", seed, 2.3 + seed / 10) for seed in range(2)]
    page = render_page(result({"standard": [], "idea": []}, trials=trials))
    assert "idea gets no verdict: 2 of the baseline's 2 trials failed" in text_of(page)
    assert not any("standard" in figure for figure in figures_of(page))


def test_layer_diagnostics_are_drawn_for_the_arms_that_have_them(result: Results, trial: Trials) -> None:
    gates = {"layer_stats": {"mean_gate": [0.4, 0.6]}}
    trials = [trial("standard", seed, 2.3 + seed / 10) for seed in range(2)]
    trials += [trial("gated", seed, 2.2 + seed / 10, **gates) for seed in range(2)]
    page = render_page(result({"standard": [], "gated": []}, trials=trials))
    assert "Mean score of the attention gate" in text_of(page)
    assert "Inside the layers" not in text_of(render_page(result(SCORES, AGAIN)))
