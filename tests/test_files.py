"""Atomic writes: the old file or the whole new one, and nothing in between, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from litmus.errors import BadInput
from litmus.files import folder_written_atomically, write_atomically, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise failing(errno.ENOSPC)

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize("content", ["text: é", b"\x00\xff"])
def test_a_file_is_written_with_its_folders_and_replaced(content: str | bytes, tmp_path: Path) -> None:
    target = tmp_path / "a/b/file"
    write_atomically(target, "old")
    write_atomically(target, content)
    assert target.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(target.parent) == ["file"]


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_modes_are_what_the_umask_says_however_a_library_wrote_the_file(
    mask: int, file: int, folder: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "alone", "x")
        with folder_written_atomically(tmp_path / "whole") as fresh:
            save_file({"x": torch.zeros(1)}, fresh / "weights.safetensors")
            write_atomically(fresh / "deeper" / "text", "x")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"alone": file, "whole": folder, "weights.safetensors": file, "deeper": folder, "text": file}


def test_a_full_disk_leaves_the_old_file(full_disk: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(BadInput, match=r"the disk is full: .*file was not written; everything saved earlier is intact"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a/folder"
    with folder_written_atomically(target) as fresh:
        assert names(fresh) == []
        (fresh / "one").write_text("1")
        (fresh / "sub").mkdir()
        (fresh / "sub/two").write_text("2")
        assert not target.exists()
    assert (names(target), (target / "sub/two").read_text()) == (["one", "sub"], "2")
    assert names(target.parent) == ["folder"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_folder_replaces_another_with_nothing_of_it_left(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with folder_written_atomically(tmp_path / "folder") as fresh:
            (fresh / name).write_text("")
    assert (names(tmp_path), names(tmp_path / "folder")) == (["folder"], ["new"])


@pytest.mark.parametrize("error", [RuntimeError("stopped"), KeyboardInterrupt(), failing(errno.EIO)])
def test_an_error_leaves_the_old_folder(error: BaseException, tmp_path: Path) -> None:
    with folder_written_atomically(tmp_path / "folder") as fresh:
        (fresh / "old").write_text("")
    with pytest.raises(type(error)), folder_written_atomically(tmp_path / "folder") as fresh:
        (fresh / "new").write_text("")
        raise error
    assert (names(tmp_path), names(tmp_path / "folder")) == (["folder"], ["old"])


def test_a_full_disk_leaves_the_old_folder(full_disk: None, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").write_text("")
    with (
        pytest.raises(BadInput, match=r"the disk is full: .*folder was not written"),
        folder_written_atomically(tmp_path / "folder") as fresh,
    ):
        (fresh / "new").write_text("")
    assert (names(tmp_path), names(tmp_path / "folder")) == (["folder"], ["old"])


def test_a_killed_process_leaves_the_old_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").write_text("")
    (tmp_path / "file").write_text("old")
    code = """
import os, sys
from pathlib import Path
from litmus.files import folder_written_atomically, write_atomically
home = Path(sys.argv[1])
os.fsync = lambda handle: os._exit(9)
if sys.argv[2] == "file":
    write_atomically(home / "file", "new")
with folder_written_atomically(home / "folder") as fresh:
    (fresh / "new").write_text("")
"""
    for target in ("file", "folder"):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path), target]).returncode == 9
    assert names(tmp_path / "folder") == ["old"]
    assert (tmp_path / "file").read_text() == "old"


def test_every_file_of_a_folder_reaches_the_disk_before_the_folder_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, synced = tmp_path / "folder", []

    def sync(handle: int) -> None:
        assert not target.exists()
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    with folder_written_atomically(target) as fresh:
        for name in ("one", "two"):
            (fresh / name).write_text(name)
        expected = {(fresh / name).stat().st_ino for name in ("one", "two")}
    assert expected <= set(synced)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_one_sentence(code: int) -> None:
    with pytest.raises(BadInput, match=r"^the disk is full: runs/x was not written"), writing(Path("runs/x")):
        raise failing(code)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_no_permission_is_one_sentence(code: int) -> None:
    with pytest.raises(BadInput, match=r"^runs/x cannot be written: .*; choose a folder"), writing(Path("runs/x")):
        raise failing(code)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(OSError, match="Input/output") as error, writing(Path("runs/x")):
        raise failing(errno.EIO)
    assert not isinstance(error.value, BadInput)
