"""A report says the same as an object, as JSON, in the terminal and in a web page."""

import json

import pytest
from rich.console import Console

from litmus.auditing import AuditReport, Finding
from litmus.auditing.report import recipe_digest
from litmus.errors import BadInput
from litmus.model import resolve

LEAK = Finding(
    name="causality",
    status="fail",
    detail="replacing <token> 5 moves position 3",
    measured=0.18,
    tolerance=1e-9,
    where="layer 2 of 0..4",
    meaning="Its scores are too good to be true.",
    mark="sees the future",
)
FINE = Finding(name="determinism", status="pass", detail="same seed, same weights")
SKIPPED = Finding(name="loss at initialization", status="not applicable", detail="a live model")
REPORT = AuditReport(subject="my_idea", quick=True, findings=[LEAK, FINE, SKIPPED], note="width 768 -> 96", seconds=3.2)


def test_one_fault_fails_the_report_and_the_first_names_it():
    assert not REPORT.passed and REPORT.failed == [LEAK]
    assert REPORT.mark() == "fails audit: sees the future"
    assert REPORT["determinism"] is FINE


@pytest.mark.parametrize(
    ("name", "hint"),
    [("determinsm", "did you mean 'determinism'?"), ("typo", "valid: causality, determinism, loss at initialization")],
)
def test_a_check_that_was_not_made_is_a_key_error_with_the_nearest_name(name, hint):
    with pytest.raises(KeyError) as error:
        REPORT[name]
    assert f"no check {name!r}; {hint}" in error.value.args[0]


def test_checks_that_do_not_apply_count_neither_way():
    report = REPORT.model_copy(update={"findings": [FINE, SKIPPED]})
    assert report.passed and report.mark() == ""


def test_a_report_comes_back_from_json_and_says_there_whether_it_passed():
    assert json.loads(REPORT.to_json())["passed"] is False
    assert AuditReport.from_json(REPORT.to_json()) == REPORT
    infinite = REPORT.model_copy(update={"findings": [LEAK.model_copy(update={"measured": float("inf")})]})
    assert AuditReport.from_json(infinite.to_json()).findings[0].measured == float("inf")
    with pytest.raises(BadInput, match="this is no audit report"):
        AuditReport.from_json("{}")


def test_the_table_shows_what_where_and_what_it_means():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(REPORT.table())
    text = console.export_text()
    for said in (
        LEAK.detail,
        LEAK.where,
        LEAK.meaning,
        "0.18 (limit 1e-09)",
        "not applicable",
        "width 768 -> 96",
    ):
        assert said in text


def test_the_section_of_a_page_escapes_what_plug_ins_say():
    html = REPORT.html_section()
    assert "&lt;token&gt;" in html and "<token>" not in html
    assert "fails audit: sees the future" in html


KEPT_BY_0_1 = """{
 "recipe_sha256": "%s",
 "subject": "standard",
 "quick": true,
 "findings": [
  {"name": "forward pass", "status": "pass", "detail": "finite logits of shape (B, T, V), a finite loss",
   "measured": null, "tolerance": null, "where": "", "meaning": "", "mark": "", "seconds": 0.083},
  {"name": "calibration at birth", "status": "fail", "detail": "the loss at birth is 9.1 nats", "measured": 4.2,
   "tolerance": 0.5, "where": "", "meaning": "It starts out sure.", "mark": "is miscalibrated at birth", "seconds": 0.1}
 ],
 "note": "",
 "seconds": 7.27,
 "passed": false
}"""


def test_a_report_kept_by_an_earlier_version_is_read_for_its_recipe_only(tmp_path):
    recipe, other = (resolve("standard", overrides={"dim": dim, "heads": 2, "vocab_size": 61}) for dim in (32, 64))
    (tmp_path / "audit.json").write_text(KEPT_BY_0_1 % recipe_digest(recipe))
    report = AuditReport.load(tmp_path, recipe)
    assert report is not None and not report.passed
    assert report.mark() == "fails audit: is miscalibrated at birth" and report.seconds == 7.27
    assert AuditReport.load(tmp_path, other) is None
    report.save(tmp_path, other)
    assert AuditReport.load(tmp_path, other) == report and AuditReport.load(tmp_path, recipe) is None
