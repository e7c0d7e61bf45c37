"""One decode step of a batch: eager, compiled, or replayed as a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from litmus.model import Decoder
from litmus.nn import Batch, Cache
from litmus.runtime.compile import compiled

MIN_GRAPH_KV_LEN = 128
"""Cache slots read by the smallest graph; each further graph reads twice as many, so that a few serve any length."""

MAX_GRAPHS = 128
"""Compiled graphs per process; further ones run uncompiled."""


class DecodeStep:
    """Feeds one token to each active row, in place, and returns the logits after it.

    Eager steps take the active rows and read the cache slots in use. Compiled steps take all rows and round the slots
    up to a power of two, so that there are few graphs.
    """

    def __init__(self, model: Decoder, cache: Cache, *, compile: bool) -> None:
        self.model = model
        self.cache = cache
        self.compile = compile
        self._last_logits = model.last_logits
        if compile:
            self._last_logits = compiled(model.last_logits, cache.lengths.device)
            # The limit counts the graphs of all engines in the process; each has one per power of two.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
        self._views: dict[int, Cache] = {}
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._active: list[bool] = []
        self._valid = torch.zeros(len(cache.lengths), 1, dtype=torch.bool, device=cache.lengths.device)

    def __call__(self, tokens: Tensor, kv_lens: list[int], active: list[bool]) -> Tensor:
        """Logits (n, V) of the first n rows, which include all active ones, for tokens (rows,).

        `kv_lens` are the numbers of tokens in each row's cache.
        """
        rows = len(active) - active[::-1].index(True)
        kv_len = 1 + max(length for length, is_active in zip(kv_lens, active, strict=True) if is_active)
        if self.compile:
            rows, kv_len = len(active), _round_up(kv_len, self.cache.capacity)
        view = self._view(rows)
        view.used = kv_len - 1
        view.start = None
        if not self.compile and all(active[:rows]) and len(set(kv_lens[:rows])) == 1:
            view.start = kv_lens[0]
            return self.model.last_logits(tokens[:rows, None], view)
        if active != self._active:
            self._valid.copy_(torch.tensor(active)[:, None])
            self._active = active
        if self.compile and tokens.device.type == "cuda":
            return self._replay(tokens, view)
        return self._last_logits(Batch(tokens[:rows, None], padding_mask=self._valid[:rows]), view)

    def _view(self, rows: int) -> Cache:
        if rows not in self._views:
            self._views[rows] = self.cache.slice_rows(0, rows)
        return self._views[rows]

    def _replay(self, tokens: Tensor, view: Cache) -> Tensor:
        """The step as one launch; a graph reads and writes the addresses it was captured with, which never change."""
        kv_len = view.used
        if kv_len not in self._graphs:
            self._graphs[kv_len] = self._capture(tokens[:, None], view)
        graph, logits = self._graphs[kv_len]
        graph.replay()
        return logits

    def _capture(self, tokens: Tensor, view: Cache) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Capture a step after warm-up runs in which no row is valid, so that they change nothing."""
        kv_len, valid = view.used, self._valid.clone()
        self._valid.zero_()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                view.used, view.start = kv_len, None
                self._last_logits(Batch(tokens, padding_mask=self._valid), view)
        torch.cuda.current_stream().wait_stream(side)
        view.used, view.start = kv_len, None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._last_logits(Batch(tokens, padding_mask=self._valid), view)
        self._valid.copy_(valid)
        return graph, logits


def _round_up(kv_len: int, limit: int) -> int:
    """The next power-of-two multiple of `MIN_GRAPH_KV_LEN`, at most `limit`."""
    size = MIN_GRAPH_KV_LEN
    while size < kv_len:
        size *= 2
    return min(size, limit)
