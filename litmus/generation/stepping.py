"""One decode step of a whole batch: as it is, compiled, or replayed as a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from litmus.model import Decoder
from litmus.nn import Cache
from litmus.runtime.compile import compiled

SMALLEST = 128
"""Cached tokens of the smallest graph; each further graph has twice as many, so that a few serve any length."""

GRAPHS = 128
"""How many graphs one process may hold before further ones run uncompiled."""


class DecodeStep:
    """Feeds one token to each row that goes on, in place, and returns the logits after it.

    Uncompiled, a step takes the rows and reads the cache slots that are in use. Compiled, it takes all rows, and the
    slots are rounded up to a power of two, so that there are few graphs.
    """

    def __init__(self, model: Decoder, cache: Cache, *, compile: bool) -> None:
        self.model = model
        self.cache = cache
        self.compile = compile
        self._last_logits = model.last_logits
        if compile:
            self._last_logits = compiled(model.last_logits, cache.lengths.device)
            # All engines of a process count together; each has one graph per power of two.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        self._parts: dict[int, Cache] = {}
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._going: list[bool] = []
        self._valid = torch.zeros(len(cache.lengths), 1, dtype=torch.bool, device=cache.lengths.device)

    def __call__(self, tokens: Tensor, held: list[int], going: list[bool]) -> Tensor:
        """Logits (n, V) of the first n rows, in which all that are `going` stand, for tokens (rows,).

        `held` counts the tokens that each row's cache holds.
        """
        number = len(going) - going[::-1].index(True)
        used = 1 + max(count for count, goes in zip(held, going, strict=True) if goes)
        if self.compile:
            number, used = len(going), _rounded(used, self.cache.capacity)
        part = self._part(number)
        part.used = used - 1
        part.start = None
        if not self.compile and all(going[:number]) and len(set(held[:number])) == 1:
            part.start = held[0]
            return self.model.last_logits(tokens[:number, None], part)
        if going != self._going:
            self._valid.copy_(torch.tensor(going)[:, None])
            self._going = going
        if self.compile and tokens.device.type == "cuda":
            return self._replayed(tokens, part)
        return self._last_logits(tokens[:number, None], part, valid=self._valid[:number])

    def _part(self, number: int) -> Cache:
        if number not in self._parts:
            self._parts[number] = self.cache.slice_rows(0, number)
        return self._parts[number]

    def _replayed(self, tokens: Tensor, part: Cache) -> Tensor:
        """The step as one launch; a graph reads and writes where it was recorded, which is where everything stays."""
        before = part.used
        if before not in self._graphs:
            self._graphs[before] = self._record(tokens[:, None], part)
        graph, logits = self._graphs[before]
        graph.replay()
        return logits

    def _record(self, tokens: Tensor, part: Cache) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Record a step, after trial runs in which no row has a token and so nothing changes."""
        before, wanted = part.used, self._valid.clone()
        self._valid.zero_()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                part.used, part.start = before, None
                self._last_logits(tokens, part, valid=self._valid)
        torch.cuda.current_stream().wait_stream(side)
        part.used, part.start = before, None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._last_logits(tokens, part, valid=self._valid)
        self._valid.copy_(wanted)
        return graph, logits


def _rounded(number: int, most: int) -> int:
    """The next power-of-two multiple of the smallest graph, at most `most`."""
    size = SMALLEST
    while size < number:
        size *= 2
    return min(size, most)
