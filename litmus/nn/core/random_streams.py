"""Random numbers for the initial weights of each part of a model, independent of the other parts."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator

import torch

from litmus.runtime.device import seeded


class RandomStreams:
    """A random stream for each part of one model, so that two recipes start the parts that they share equally.

    With one stream for the whole model, an arm whose mixer draws one number more would start every later layer
    elsewhere, which adds the variance of the initialization to the difference of paired trainings.
    """

    def __init__(self) -> None:
        """Draw the model's seed from torch's default generator, unless it is built without values."""
        self._seed = 0
        if torch.get_default_device().type != "meta":
            drawn = torch.empty((), dtype=torch.int64, device="cpu").random_()
            if type(drawn) is torch.Tensor:  # not a FakeTensor, which has no value
                self._seed = int(drawn)
        self._built: Counter[str] = Counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within this context torch's default generator is at the start of the stream of the part `name`.

        A second part of the same name has a stream of its own. The default generator is restored at the end.
        """
        key = f"{self._seed}/{name}/{self._built[name]}"
        self._built[name] += 1
        with seeded(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])):
            yield
