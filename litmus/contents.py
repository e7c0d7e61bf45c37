"""Read a file that stands where Litmus, not the user, says that one is: what is no file is never waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def contents(path: Path) -> bytes:
    """The bytes of a regular file; OSError for anything else: a pipe may never be written to, a device never end."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        with open(handle, "rb") as file:
            return file.read()
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no regular file", str(path))
