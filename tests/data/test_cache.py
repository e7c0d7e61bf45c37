import errno
import threading
import time
from pathlib import Path

import pytest

from litmus.data import cache
from litmus.data.cache import built_once, cache_folder, content_hash
from litmus.data.progress import silent
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
        built_once(tmp_path / "taken" / "tokens" / "x", lambda folder: None, silent)


def test_of_several_that_need_a_folder_at_once_one_builds_it(tmp_path):
    builds, lines = [], []

    def build(folder):
        builds.append(folder)
        time.sleep(0.2)
        (folder / "file").write_text("whole")

    threads = [threading.Thread(target=built_once, args=(tmp_path / "x", build, lines.append)) for _ in range(4)]
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
        built_once(tmp_path / "x", full_disk, silent)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "cache"] == []
    built_once(tmp_path / "x", lambda folder: (folder / "file").write_text("whole"), silent)
    assert (tmp_path / "x" / "file").read_text() == "whole"


def test_what_a_killed_build_left_is_swept_away(tmp_path):
    left = tmp_path / ".x.abc123.litmus-tmp"
    left.mkdir()
    (left / "file").write_text("half")
    built_once(tmp_path / "x", lambda folder: None, silent)
    assert not left.exists()


def test_a_remembered_hash_is_forgotten_when_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "REMEMBER_HASH_FROM_BYTES", 1)
    file = tmp_path / "a"
    file.write_text("one")
    first = content_hash(file, silent)
    assert first == content_hash(file, lambda line: pytest.fail("hashed again"))
    file.write_text("three")
    assert content_hash(file, silent) != first
