"""The committed results of the claims: made by the committed protocols, and shown by the page and the README."""

from __future__ import annotations

import re
from pathlib import Path

from litmus.claims.protocol import claim_named
from litmus.claims.report import load_records, page_text, picture_name, summary_table

ROOT = Path(__file__).parents[2]
RECORDS, PAGE = ROOT / "docs" / "results" / "claims", ROOT / "docs" / "claims.md"


def test_the_records_are_of_the_committed_protocols() -> None:
    records = load_records(RECORDS)
    assert records
    for record in records:
        assert record.sha256 == record.claim.sha256 == claim_named(record.claim.name, record.claim.scale).sha256


def test_the_page_is_what_the_records_make_of_it() -> None:
    records = load_records(RECORDS)
    assert PAGE.read_text(encoding="utf-8") == page_text(records, "results/claims")
    assert all((RECORDS / picture_name(record)).is_file() for record in records)


def test_the_table_in_the_readme_is_that_of_the_records() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"<!-- claims -->\n(.*?)\n<!-- end of claims -->", readme, re.DOTALL)
    assert shown == summary_table(load_records(RECORDS), "docs/claims.md")
