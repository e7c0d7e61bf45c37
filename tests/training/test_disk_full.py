"""A disk that fills up while training costs nothing that was already saved."""

import errno
import os

import pytest

from litmus.errors import BadInput
from litmus.training.run import checkpoints, metrics
from litmus.training.run.loading import load_run


class LimitedDisk:
    """Counts the bytes that checkpoints and metrics write and refuses all beyond a limit, as a full disk would."""

    def __init__(self, monkeypatch, limit):
        self.left = limit
        plain_save, plain_open = checkpoints.save_file, metrics.Path.open
        disk = self

        def save_file(tensors, path):
            disk.pay(sum(tensor.nbytes for tensor in tensors.values()))
            plain_save(tensors, path)

        class File:
            def __init__(self, file):
                self.file = file

            def write(self, line):
                fitting = min(len(line), disk.left)
                disk.left -= fitting
                return self.file.write(line[:fitting])

            def __getattr__(self, name):
                return getattr(self.file, name)

        def open_path(path, mode="r", *args, **options):
            file = plain_open(path, mode, *args, **options)
            return File(file) if mode == "ab" else file

        monkeypatch.setattr(checkpoints, "save_file", save_file)
        monkeypatch.setattr(metrics.Path, "open", open_path)

    def pay(self, size):
        if size > self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= size


@pytest.mark.parametrize("limit", [61_000, 120_000, 175_000, 230_000])
def test_a_training_stopped_by_a_full_disk_goes_on_when_there_is_room(limit, quick, events, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        LimitedDisk(patch, limit)
        with pytest.raises(BadInput, match=r"disk is full.*everything saved earlier is intact"):
            quick("full")
    if (tmp_path / "full" / "checkpoints").exists() and any((tmp_path / "full" / "checkpoints").iterdir()):
        assert load_run(tmp_path / "full").step > 0
    quick("full")
    quick("roomy")
    assert events("full") == events("roomy")
    assert load_run(tmp_path / "full").step == load_run(tmp_path / "roomy").step == 20
