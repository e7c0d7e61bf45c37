"""Atomic writes: the old file or the whole new one, and nothing in between, whatever goes wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from litmus.errors import BadInput
from litmus.files import TEMP_SUFFIX, folder_written_atomically, remove_leftovers, write_atomically, writing
from litmus.locks import folder_lock


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


def written(target: Path, *files: str) -> None:
    """A folder of a kind, with a manifest, as one call wrote it."""
    with folder_written_atomically(target, "thing") as fresh:
        for name in files:
            (fresh / name).write_text("")


def test_a_folder_replaces_another_with_nothing_of_it_left(tmp_path: Path) -> None:
    for name in ("old", "new"):
        written(tmp_path / "folder", name)
    assert (names(tmp_path), names(tmp_path / "folder")) == (["folder"], ["manifest.json", "new"])


@pytest.mark.parametrize("error", [RuntimeError("stopped"), KeyboardInterrupt(), failing(errno.EIO)])
def test_an_error_leaves_the_old_folder(error: BaseException, tmp_path: Path) -> None:
    written(tmp_path / "folder", "old")
    with pytest.raises(type(error)), folder_written_atomically(tmp_path / "folder", "thing") as fresh:
        (fresh / "new").write_text("")
        raise error
    assert (names(tmp_path), names(tmp_path / "folder")) == (["folder"], ["manifest.json", "old"])


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise failing(errno.ENOSPC)

    written(tmp_path / "folder", "old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(BadInput, match=r"the disk is full: .*folder was not written"):
        written(tmp_path / "folder", "new")
    assert (names(tmp_path), names(tmp_path / "folder")) == (["folder"], ["manifest.json", "old"])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["fsync", "replace", "chmod", "mkdtemp", "rmtree"])
def test_a_kill_at_any_moment_leaves_the_old_folder_and_file_or_the_new(moment: str, tmp_path: Path) -> None:
    code = """
import os, shutil, sys, tempfile
from pathlib import Path
from litmus.files import folder_written_atomically, write_atomically
from litmus.locks import folder_replaced
home = Path(sys.argv[1])
if sys.argv[3] != "none":
    module = {"mkdtemp": tempfile, "rmtree": shutil}.get(sys.argv[3], os)
    setattr(module, sys.argv[3], lambda *arguments, **options: os._exit(9))
if sys.argv[2] == "file":
    write_atomically(home / "file", "new")
else:
    with folder_replaced(home / "folder", "thing") as fresh:
        (fresh / "new").write_text("")
"""

    def call(target: str, moment: str) -> int:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path), target, moment]).returncode

    written(tmp_path / "folder", "old")
    (tmp_path / "file").write_text("old")
    for target in ("file", "folder"):
        assert call(target, moment) in ((9,) if moment in ("fsync", "chmod") else (0, 9))
    assert names(tmp_path / "folder") in (["manifest.json", "old"], ["manifest.json", "new"])
    assert (tmp_path / "file").read_text() in ("old", "new")
    assert call("folder", "none") == 0
    assert names(tmp_path / "folder") == ["manifest.json", "new"]
    assert [name for name in names(tmp_path) if name.startswith(".folder")] == []


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: (folder / "notes.txt").write_text("mine"), "holds notes.txt, which Litmus did not write"),
        (lambda folder: (folder / ".git").write_text("mine"), "holds .git, which Litmus did not write"),
        (lambda folder: (folder / "sub").mkdir() or (folder / "sub/x").write_text("mine"), "holds sub/x"),
        (lambda folder: (folder / "sub").symlink_to("/"), "holds sub, which Litmus did not write"),
        (lambda folder: (folder / "old").write_text("edited"), "holds old, changed since Litmus wrote it"),
        (lambda folder: (folder / "old").unlink() or (folder / "old").symlink_to("/etc/hosts"), "holds old, changed"),
        (lambda folder: (folder / "manifest.json").unlink(), "is no thing that Litmus wrote"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: written_as(folder, "other"), "holds a other and no thing"),
    ],
)
def test_a_folder_that_holds_anything_but_what_was_written_is_not_replaced(
    make: Callable[[Path], object], sentence: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    written(folder, "old")
    make(folder)
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    with pytest.raises(BadInput) as refused:
        written(folder, "new")
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before
    assert names(tmp_path) == ["folder"]


def written_as(folder: Path, kind: str) -> None:
    text = (folder / "manifest.json").read_text().replace('"thing"', f'"{kind}"')
    (folder / "manifest.json").write_text(text)


def test_what_operating_systems_leave_in_a_folder_is_replaced_with_it(tmp_path: Path) -> None:
    written(tmp_path / "folder", "old")
    for name in (".DS_Store", "._old", ".nfs0001", "Thumbs.db"):
        (tmp_path / "folder" / name).write_text("")
    written(tmp_path / "folder", "new")
    assert names(tmp_path / "folder") == ["manifest.json", "new"]


def test_a_folder_of_no_kind_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine").write_text("")
    with pytest.raises(BadInput, match="is not empty"), folder_written_atomically(tmp_path / "folder"):
        raise AssertionError("refused before the block begins")
    assert names(tmp_path / "folder") == ["mine"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_is_written_through(there: bool, tmp_path: Path) -> None:
    if there:
        written(tmp_path / "elsewhere/real", "old")
    (tmp_path / "link").symlink_to("elsewhere/real")
    written(tmp_path / "link", "new")
    assert names(tmp_path / "elsewhere/real") == ["manifest.json", "new"]
    assert (tmp_path / "link").is_symlink()
    assert (names(tmp_path), names(tmp_path / "elsewhere")) == (["elsewhere", "link"], ["real"])


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file_is_written_through(there: bool, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    if there:
        (tmp_path / "real").write_text("old")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert names(tmp_path) == ["link", "real"]


def test_devices_and_pipes_are_written_to_and_stay_what_they_are(tmp_path: Path) -> None:
    write_atomically(Path("/dev/null"), "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BadInput, match="pipe cannot be written: No such device or address"):
        write_atomically(pipe, "nobody reads this")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert names(tmp_path) == ["pipe"] and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_a_full_device_is_one_sentence() -> None:
    with pytest.raises(BadInput, match="the disk is full: /dev/full was not written"):
        write_atomically(Path("/dev/full"), "text")


@pytest.mark.parametrize("through", ["file", "pipe"])
def test_standard_output_by_its_name_is_written_after_what_was_printed(through: str, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from litmus.files import write_atomically
print("before")
write_atomically(Path("/dev/stdout"), "text\\n")
print("after")
"""
    with (tmp_path / "out").open("w") as file:
        out = file if through == "file" else subprocess.PIPE
        ended = subprocess.run([sys.executable, "-c", code], stdout=out, text=True)
    assert (ended.stdout or (tmp_path / "out").read_text()) == "before\ntext\nafter\n"
    assert names(tmp_path) == ["out"]


def test_a_file_keeps_the_mode_that_somebody_gave_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o600)
    write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("place", "reason"),
    [("folder", "Is a directory"), ("file/below", "Not a directory"), ("x" * 300, "File name too long")],
)
def test_a_place_where_no_file_can_be_is_one_sentence(place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=f"cannot be written: {reason}"):
        write_atomically(tmp_path / place, "new")
    assert names(tmp_path) == ["file", "folder"]


def test_names_of_the_full_length_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("x" * 255), "new")
    written(tmp_path / ("é" * 127), "new")
    assert names(tmp_path) == ["x" * 255, "é" * 127]


def test_the_leftovers_of_other_targets_are_left_alone(tmp_path: Path) -> None:
    for name in (f".folder.abcdefgh{TEMP_SUFFIX}", f".folder.x.abcdefgh{TEMP_SUFFIX}", ".folder.abcdefgh", ".folder"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path, of="folder")
    assert names(tmp_path) == [".folder", ".folder.abcdefgh", f".folder.x.abcdefgh{TEMP_SUFFIX}"]


def test_the_error_of_a_library_that_tells_it_in_words_is_understood() -> None:
    with pytest.raises(BadInput, match="the disk is full"), writing(Path("runs/x")):
        raise SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")


def test_an_error_about_another_file_is_not_taken_for_one_about_the_target(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), folder_written_atomically(tmp_path / "folder"):
        Path("/usr").read_bytes()


def test_every_file_of_a_folder_reaches_the_disk_before_the_folder_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, synced = tmp_path / "folder", []

    def sync(handle: int) -> None:
        if not target.exists():
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


def test_a_target_whose_name_holds_a_nul_is_refused_by_everything_that_writes(tmp_path: Path) -> None:
    for write in (
        lambda: write_atomically(tmp_path / "a\0b", ""),
        lambda: _entered(folder_lock(tmp_path / "a\0b", "in")),
    ):
        with pytest.raises(BadInput, match=r"a\\x00b cannot be written: .*NUL"):
            write()


def _entered(context: contextlib.AbstractContextManager[None]) -> None:
    with context:
        pass
