"""The device a command runs on, and its CPU threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from litmus.errors import BadInput


def pick_device(name: str) -> torch.device:
    """The device of that name; auto is a CUDA device if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"device {name!r} cannot train; auto, cpu, cuda and cuda:N are valid")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device {name!r} is not on this machine, which has {torch.cuda.device_count()} CUDA devices")
    return device


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """In this block random numbers of the CPU, and of CUDA if it is in use, follow from `seed`.

    The CPU's random state is restored at the end.
    """
    with torch.random.fork_rng(devices=[]):
        seed_devices_in_use(seed)
        yield


def seed_devices_in_use(seed: int) -> None:
    """`torch.manual_seed` without the stack traces that it formats for devices not in use: most of a millisecond."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextlib.contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Use this number of CPU threads, which decides the order of sums, and restore the random state at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)
