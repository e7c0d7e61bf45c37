"""A pipe, device, socket or folder in place of a file is neither waited for nor read without end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from litmus.auditing import AuditReport
from litmus.comparison.results import TrialResult, read_record
from litmus.errors import BadInput
from litmus.files import read_regular_file
from litmus.model import build, trust
from litmus.training.run.result import read_result


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket has few bytes
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


NO_FILES = pytest.mark.parametrize("made", [pipe, endless, listening, Path.mkdir])


@NO_FILES
def test_what_is_no_file_is_an_error_at_once(made: Callable[[Path], None], tmp_path: Path) -> None:
    made(tmp_path / "x")
    with pytest.raises(OSError):
        read_regular_file(tmp_path / "x")


@NO_FILES
def test_an_audit_a_result_and_an_outcome_that_are_no_files_are_not_waited_for(
    made: Callable[[Path], None], tmp_path: Path
) -> None:
    for name in ("audit.json", "result.json", "outcome.json"):
        made(tmp_path / name)
    assert AuditReport.load(tmp_path, build("standard", size="tiny", vocab_size=300).recipe) is None
    try:
        assert read_result(tmp_path) is None
    except BadInput as error:
        assert str(tmp_path / "result.json") in str(error)
    with pytest.raises(BadInput, match=r"outcome\.json is .* where a file of the comparison belongs"):
        read_record(tmp_path / "outcome.json", TrialResult)


@NO_FILES
def test_a_list_of_trusted_plugins_that_is_no_file_trusts_nothing_and_says_so(
    made: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LITMUS_STATE", str(tmp_path))
    made(tmp_path / trust.TRUST_FILE)
    digest = made.__name__.encode().hex().ljust(64, "0")
    assert not trust.is_trusted(digest)
    trust.trust(digest, tmp_path / "mine.py")
    assert f"{tmp_path / trust.TRUST_FILE} cannot be written" in capsys.readouterr().err
    assert trust.is_trusted(digest), "in this process it was named"
