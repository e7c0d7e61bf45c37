import errno
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from litmus.data import cache
from litmus.data.cache import build_once, cache_folder, content_hash
from litmus.data.messages import no_log
from litmus.errors import BadInput


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("LITMUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "litmus"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/litmus").expanduser()


def test_a_cache_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(BadInput, match="set LITMUS_CACHE"):
        build_once(tmp_path / "taken" / "tokens" / "x", lambda folder: None, no_log)


def test_of_several_that_need_a_folder_at_once_one_builds_it(tmp_path):
    builds, lines = [], []

    def build(folder):
        builds.append(folder)
        time.sleep(0.2)
        (folder / "file").write_text("whole")

    threads = [threading.Thread(target=build_once, args=(tmp_path / "x", build, lines.append)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert (tmp_path / "x" / "file").read_text() == "whole"
    assert len(lines) == 3
    assert all("another process is preparing" in line and "waiting for it" in line for line in lines)


def test_a_build_that_fails_leaves_nothing_behind_and_can_be_tried_again(tmp_path):
    def full_disk(folder):
        (folder / "file").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BadInput, match="disk is full"):
        build_once(tmp_path / "x", full_disk, no_log)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "cache"] == []
    build_once(tmp_path / "x", lambda folder: (folder / "file").write_text("whole"), no_log)
    assert (tmp_path / "x" / "file").read_text() == "whole"


def test_what_a_killed_build_left_is_swept_away(tmp_path):
    left = tmp_path / ".x.abc123.litmus-tmp"
    left.mkdir()
    (left / "file").write_text("half")
    build_once(tmp_path / "x", lambda folder: None, no_log)
    assert not left.exists()


def test_what_killed_builds_of_other_entries_left_is_swept_away_and_nothing_else(tmp_path):
    root = tmp_path / "entries"
    ours = [root / ".y.abc123.litmus-tmp", root / ".z.q_4.litmus-tmp"]
    others = [root / ".x.backup", root / ".DS_Store", root / ".notes", root / "y" / "file"]
    for path in [*ours, *others]:
        path.mkdir(parents=True)
    build_once(root / "x", lambda folder: (folder / "file").write_text(""), no_log)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


def test_what_another_process_is_building_is_not_swept_away(tmp_path):
    under_way = []

    def build_two(folder):
        under_way.append(folder)
        build_once(tmp_path / "b", lambda inner: (inner / "file").write_text("b"), no_log)
        assert folder.is_dir()
        (folder / "file").write_text("a")

    build_once(tmp_path / "a", build_two, no_log)
    assert (tmp_path / "a" / "file").read_text() == "a"


KILLED = """
import os, signal, sys
from pathlib import Path
from litmus.data.cache import build_once

def build(folder):
    (folder / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

build_once(Path(sys.argv[1]), build, print)
"""


def test_after_a_build_was_killed_the_next_one_works_and_nothing_is_left_over(tmp_path):
    target = tmp_path / "entries" / "x"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target)])
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    build_once(target, lambda folder: (folder / "file").write_text("whole"), lambda line: pytest.fail(line))
    assert (target / "file").read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("folder", ["/proc/cache", "/dev/null/cache", "x" * 300, "~nobody-here/cache"])
def test_a_cache_folder_that_cannot_be_made_is_one_sentence(monkeypatch, tmp_path, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITMUS_CACHE", folder)
    with pytest.raises(BadInput, match="set LITMUS_CACHE") as complaint:
        build_once(cache_folder() / "tokens" / "x", lambda folder: None, no_log)
    assert str(complaint.value).isprintable()


def test_an_empty_variable_names_no_cache_and_a_relative_one_is_taken_from_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LITMUS_CACHE", "")
    assert cache_folder() == tmp_path / "xdg" / "litmus"
    monkeypatch.setenv("LITMUS_CACHE", "here")
    assert cache_folder() == tmp_path / "here"


@pytest.mark.parametrize("damage", [b"", b"not sixty-four digits", b"\xff\xfe"])
def test_a_damaged_memory_of_a_hash_is_not_believed(tmp_path, own_cache, monkeypatch, damage):
    monkeypatch.setattr(cache, "MIN_BYTES_TO_CACHE_HASH", 1)
    (tmp_path / "a").write_text("one")
    right = content_hash(tmp_path / "a", no_log)
    (memory,) = (own_cache / "hashes").iterdir()
    memory.write_bytes(damage)
    assert content_hash(tmp_path / "a", no_log) == right


def test_a_hash_is_computed_where_it_cannot_be_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MIN_BYTES_TO_CACHE_HASH", 1)
    monkeypatch.setenv("LITMUS_CACHE", "/proc/cache")
    (tmp_path / "a").write_text("one")
    assert len(content_hash(tmp_path / "a", no_log)) == 64


def test_a_remembered_hash_is_forgotten_when_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MIN_BYTES_TO_CACHE_HASH", 1)
    file = tmp_path / "a"
    file.write_text("one")
    first = content_hash(file, no_log)
    assert first == content_hash(file, lambda line: pytest.fail("hashed again"))
    file.write_text("three")
    assert content_hash(file, no_log) != first
