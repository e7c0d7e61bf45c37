"""The engine: continuous batching of many requests through one KV cache."""

from __future__ import annotations

import itertools
import random
from collections import abc, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from litmus.errors import BadInput
from litmus.generation.decode_step import DecodeStep
from litmus.generation.decode_weights import DecodePrecision, prepare
from litmus.generation.logits_processors import TokenHistory
from litmus.generation.sampling import BatchSampling, Sampling, next_tokens
from litmus.model import Decoder
from litmus.nn import Cache
from litmus.runtime.memory import free_bytes

MAX_PREFILL_TOKENS = 512
"""Prompt tokens processed between two decode steps; more would delay the sequences that decode."""

FinishReason = Literal["stop", "length", "context"]
Overflow = Literal["stop", "slide"]


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it. `stop` are the tokens that end it; they are not part of the result."""

    tokens: abc.Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 100
    seed: int = 0
    stop: Collection[int] = ()
    logprobs: bool = False


@dataclass(frozen=True)
class TokenEvent:
    """One more token of request `id`, and why the request finished if it did; a stop token finishes it with token None.

    `logprob` (nats) is the model's own, before temperature and logits processors.
    """

    id: int
    token: int | None
    logprob: float | None = None
    finish_reason: FinishReason | None = None


@dataclass
class Sequence:
    """A request in a cache row, which holds `kv_len` of its tokens; those in `prompt_left` still wait for prefill."""

    id: int
    request: Request
    prompt_left: deque[int]
    rng: random.Random
    tokens: list[int]
    kv_len: int = 0
    n_generated: int = 0
    finish_reason: FinishReason | None = None
    """Why the last sampled token is the last one, if it is."""
    has_logits: bool = False
    """Logits for the next token are ready and not yet sampled from."""
    needs_forward: bool = False
    """The last sampled token still has to be fed to the model."""


class Engine:
    """Decodes the submitted requests, up to `max_batch_size` at a time, in a cache of `capacity` tokens per row.

    The text of a sequence does not depend on the rest of the batch, except for rounding. A row keeps the keys and
    values of its last request: one that begins with the same tokens, as the next turn of a chat, prefills only the
    others. `capacity` defaults to the recipe's context. `overflow` is what happens when it is reached: "stop" ends the
    sequence, "slide" clears its row and prefills the last half of its tokens, which works for every mixer. `compile`
    compiles the decode step; on a GPU it is also replayed as a CUDA graph. `int8` and `int4` store
    linear weights in 8 or 4 bits. The model is put in evaluation mode.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        max_batch_size: int = 8,
        capacity: int | None = None,
        precision: DecodePrecision | None = None,
        compile: bool = False,
        int8: bool = False,
        int4: bool = False,
        overflow: Overflow = "stop",
        max_prefill_tokens: int = MAX_PREFILL_TOKENS,
    ) -> None:
        if overflow not in get_args(Overflow):
            raise BadInput(f"overflow {overflow!r} is unknown; stop and slide are valid")
        context = model.recipe.context
        self.model = prepare(model, precision, int8=int8, int4=int4).eval()
        self.capacity = min(capacity or context, context)
        self.overflow = overflow
        self.max_prefill_tokens = max_prefill_tokens
        self.device = model.device
        check_cache_memory(self.model, max_batch_size, self.capacity)
        with torch.inference_mode():
            self.cache = self.model.new_cache(max_batch_size, self.capacity)
            self.tokens = torch.zeros(max_batch_size, dtype=torch.long, device=self.device)
            self.history = TokenHistory(max_batch_size, self.capacity, self.device)
        self._rows: list[Sequence | None] = [None] * max_batch_size
        self._kept: list[list[int]] = [[] for _ in range(max_batch_size)]
        """The tokens that the cache of each free row still holds."""
        self._waiting: deque[Sequence] = deque()
        self._submitted = 0
        self._logits: Tensor | None = None
        self._sampling: BatchSampling | None = None
        self._overlap = self.device.type == "cuda"
        self._decode_step = DecodeStep(self.model, self.cache, compile=compile)

    def submit(self, request: Request) -> int:
        """Queue a request; returns its id, counted from 0."""
        recipe = self.model.recipe
        check_request(request, self._submitted, self.capacity, recipe.context, recipe.vocab_size)
        tokens = list(request.tokens)
        self._waiting.append(Sequence(self._submitted, request, deque(tokens), random.Random(request.seed), tokens))
        self._submitted += 1
        return self._submitted - 1

    @torch.inference_mode()
    def cancel(self, id: int) -> None:
        """Drop a request, waiting or running; it has no further events."""
        self._waiting = deque(sequence for sequence in self._waiting if sequence.id != id)
        for row, sequence in enumerate(self._rows):
            if sequence is not None and sequence.id == id:
                self._free(row)

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._waiting) or any(sequence is not None for sequence in self._rows)

    def run(self) -> Iterator[TokenEvent]:
        """Events until every request is finished; more may be submitted meanwhile."""
        while self.busy:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """Prefill some prompt tokens, and generate one token of every sequence whose prompt is complete.

        On a GPU the next forward pass is launched before this step's tokens are read, so that host and device work at
        the same time; a sequence that turns out to be finished has then been decoded once for nothing.
        """
        if not self._overlap:
            self._decode()
        self._admit()
        self._prefill()
        ready = [(row, sequence) for row, sequence in enumerate(self._rows) if sequence and sequence.has_logits]
        if not ready:
            return []
        tokens, logprobs = self._sample(ready)
        if self._overlap:
            tokens, logprobs, wait = _start_copy_to_host(tokens, logprobs)
            self._decode()
            wait()
        return self._events(ready, tokens.tolist(), None if logprobs is None else logprobs.tolist())

    def _admit(self) -> None:
        """Give free rows to waiting requests, each the one that holds most of its first tokens."""
        while self._waiting and (free := [row for row, sequence in enumerate(self._rows) if sequence is None]):
            admitted = self._waiting.popleft()
            row = max(free, key=lambda row: self._reusable(row, admitted.tokens))
            admitted.kv_len = self._reusable(row, admitted.tokens)
            for _ in range(admitted.kv_len):
                admitted.prompt_left.popleft()
            if admitted.kv_len:
                self.cache.lengths[row] = admitted.kv_len
            elif self._kept[row]:
                self.cache.reset_rows(slice(row, row + 1))
            self._rows[row] = admitted
            self.history.set_row(row, admitted.tokens)
            self._sampling = None

    def _reusable(self, row: int, tokens: list[int]) -> int:
        """Number of first tokens of a prompt that the cache of a free row holds; the last one is needed for logits."""
        kept = self._kept[row]
        pairs = zip(kept, tokens[:-1], strict=False)
        equal = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        return equal if equal == len(kept) or self.model.supports_rollback else 0

    def _free(self, row: int, sampled: int | None = None) -> None:
        """Free a row; `sampled` is a token that is not part of its sequence, but may be in its cache."""
        sequence = self._rows[row]
        assert sequence is not None
        tokens = sequence.tokens if sampled is None else [*sequence.tokens, sampled]
        self._kept[row] = tokens[: sequence.kv_len]
        self._rows[row] = None
        self._sampling = None

    def _prefill(self) -> None:
        """Prefill up to `max_prefill_tokens` prompt tokens; adjacent rows of the same length share a forward pass."""
        budget = self.max_prefill_tokens
        while budget > 0 and (group := self._prefill_group()):
            sequences = [sequence for sequence in self._rows[group.start : group.stop] if sequence is not None]
            length = max(1, min(budget // len(sequences), *(len(sequence.prompt_left) for sequence in sequences)))
            chunk = [[sequence.prompt_left.popleft() for _ in range(length)] for sequence in sequences]
            rows = self.cache.slice_rows(group.start, group.stop)
            rows.start = rows.used = sequences[0].kv_len
            self._store(self.model.last_logits(torch.tensor(chunk, device=self.device), rows), group.start)
            for sequence in sequences:
                sequence.kv_len += length
                sequence.has_logits = not sequence.prompt_left
            budget -= length * len(sequences)

    def _prefill_group(self) -> range | None:
        """The row of the oldest request that is being prefilled and the rows after it that have the same length."""
        prefilling = [
            (sequence.id, row)
            for row, sequence in enumerate(self._rows)
            if sequence is not None and sequence.prompt_left
        ]
        if not prefilling:
            return None
        first = min(prefilling)[1]
        adjacent = itertools.takewhile(lambda sequence: sequence and sequence.prompt_left, self._rows[first:])
        same_length = itertools.groupby(sequence.kv_len for sequence in adjacent if sequence is not None)
        return range(first, first + len(list(next(same_length)[1])))

    def _decode(self) -> None:
        """Feed the last sampled tokens to the model, in all rows that continue."""
        active = [sequence is not None and sequence.needs_forward for sequence in self._rows]
        if not any(active):
            return
        kv_lens = [0 if sequence is None else sequence.kv_len for sequence in self._rows]
        self._store(self._decode_step(self.tokens, kv_lens, active), 0)
        for sequence in self._rows:
            if sequence is not None and sequence.needs_forward:
                sequence.kv_len, sequence.needs_forward, sequence.has_logits = sequence.kv_len + 1, False, True

    def _store(self, logits: Tensor, first_row: int) -> None:
        if self._logits is None:
            self._logits = logits.new_zeros(len(self._rows), logits.shape[1])
        self._logits[first_row : first_row + len(logits)] = logits

    def _sample(self, ready: list[tuple[int, Sequence]]) -> tuple[Tensor, Tensor | None]:
        """The next token of the rows with logits, and log-probabilities if any request wants them; both (n,)."""
        assert self._logits is not None
        rows = 1 + ready[-1][0]
        logits, history = self._logits[:rows], self.history.first_rows(rows)
        sampling = self._batch_sampling(rows)
        tokens = next_tokens(logits, sampling, self._uniform(ready, rows), history)
        self.tokens[:rows] = tokens
        if sampling.needs_history:
            active = torch.zeros(rows, dtype=torch.bool)
            active[[row for row, _ in ready]] = True
            history.append(tokens, active.to(self.device))
        for _, sequence in ready:
            sequence.n_generated, sequence.has_logits = sequence.n_generated + 1, False
            if sequence.n_generated == sequence.request.max_new_tokens:
                sequence.finish_reason = "length"
            elif sequence.kv_len + 1 >= self.capacity:
                sequence.finish_reason = "context"
            sequence.needs_forward = sequence.finish_reason is None
        if not any(sequence.request.logprobs for _, sequence in ready):
            return tokens, None
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return tokens, exact.gather(1, tokens[:, None])[:, 0] - exact.logsumexp(-1)

    def _batch_sampling(self, rows: int) -> BatchSampling:
        """The sampling settings of the first `rows` rows, kept until the batch changes."""
        if self._sampling is None or self._sampling.rows != rows:
            requests = [None if sequence is None else sequence.request for sequence in self._rows[:rows]]
            sampling = [None if request is None else request.sampling for request in requests]
            stops = [() if request is None else request.stop for request in requests]
            self._sampling = BatchSampling(sampling, self.model.recipe.vocab_size, self.device, stops)
        return self._sampling

    def _uniform(self, ready: list[tuple[int, Sequence]], rows: int) -> Tensor:
        """One number in [0, 1) for each row, from the sequence's own generator."""
        numbers = [0.0] * rows
        for row, sequence in ready:
            numbers[row] = sequence.rng.random()
        uniform = torch.tensor(numbers, dtype=torch.float64)
        return uniform.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else uniform

    def _events(
        self, ready: list[tuple[int, Sequence]], tokens: list[int], logprobs: list[float] | None
    ) -> list[TokenEvent]:
        """The events of the sampled tokens; finished sequences free their rows."""
        events = []
        for row, sequence in ready:
            token, reason = tokens[row], sequence.finish_reason
            if token in sequence.request.stop:
                events.append(TokenEvent(sequence.id, None, finish_reason="stop"))
                self._free(row, token)
                continue
            sequence.tokens.append(token)
            if reason == "context" and self.overflow == "slide":
                self._slide(row, sequence)
                reason = None
            logprob = logprobs[row] if logprobs is not None and sequence.request.logprobs else None
            events.append(TokenEvent(sequence.id, token, logprob, reason))
            if reason is not None:
                self._free(row)
        return events

    def _slide(self, row: int, sequence: Sequence) -> None:
        """Clear the row and prefill the last half of the sequence's tokens as a prompt."""
        self.cache.reset_rows(slice(row, row + 1))
        sequence.tokens = sequence.tokens[-(self.capacity // 2) :]
        sequence.prompt_left, sequence.kv_len, sequence.finish_reason = deque(sequence.tokens), 0, None
        self.history.set_row(row, sequence.tokens, sequence.n_generated)


def _start_copy_to_host(tokens: Tensor, logprobs: Tensor | None) -> tuple[Tensor, Tensor | None, Callable[[], None]]:
    """Copies on the host, and a function that waits for them but not for work launched after this call."""
    copies = tokens.to("cpu", non_blocking=True), None if logprobs is None else logprobs.to("cpu", non_blocking=True)
    if not tokens.is_cuda:
        return *copies, lambda: None
    done = torch.cuda.Event()
    done.record()
    return *copies, done.synchronize


def start_request(model: Decoder, request: Request, rows: int = 1) -> tuple[Tensor, Cache, int, FinishReason]:
    """Start a request outside the engine: its prompt (1, T), an empty cache of one row, and the number of new tokens
    that it can have with the finish reason after the last of them.

    `rows` is the number of rows that the cache will be expanded to. The model is put in evaluation mode.
    """
    context, device = model.recipe.context, model.device
    check_request(request, 0, context, context, model.recipe.vocab_size)
    limit = min(request.max_new_tokens, context - len(request.tokens))
    capacity = len(request.tokens) + limit
    check_cache_memory(model, rows, capacity)
    model.eval()
    prompt = torch.tensor([list(request.tokens)], device=device)
    return prompt, model.new_cache(1, capacity), limit, "length" if limit == request.max_new_tokens else "context"


def check_length(max_new_tokens: int) -> None:
    """BadInput for a continuation of no tokens."""
    if max_new_tokens < 1:
        raise BadInput(f"max_new_tokens = {max_new_tokens} generates nothing; it must be at least 1")


def check_request(request: Request, number: int, capacity: int, context: int, vocabulary: int) -> None:
    """BadInput for a request that cannot be continued."""
    prompt, sampling = request.tokens, request.sampling
    check_length(request.max_new_tokens)
    if not len(prompt):
        raise BadInput(f"prompt {number} is empty; give at least one token to continue from")
    if len(prompt) >= capacity:
        limit = f"the context is {context}" if capacity == context else f"a row of this engine holds {capacity}"
        raise BadInput(f"prompt {number} has {len(prompt)} tokens and {limit}; shorten it to {capacity - 1}")
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise BadInput(f"prompt {number} holds a token outside 0..{vocabulary - 1}, the model's vocabulary")
    named = {
        "stop": request.stop,
        "logit_bias": sampling.logit_bias,
        "bad_words": [token for word in sampling.bad_words for token in word],
    }
    for name, tokens in named.items():
        for token in tokens:
            if not 0 <= token < vocabulary:
                raise BadInput(f"{name} names token {token}, which is outside 0..{vocabulary - 1}, the vocabulary")


def check_cache_memory(model: Decoder, rows: int, capacity: int, device: torch.device | None = None) -> None:
    """BadInput when a KV cache of `rows` x `capacity` tokens does not fit into memory.

    `device` is where the cache will be, for a model on the meta device.
    """
    if rows < 1:
        raise BadInput(f"max_batch_size = {rows} decodes nothing; it must be at least 1")
    weight = next(model.parameters())
    row_bytes = model.kv_elements(capacity) * weight.element_size()
    free = free_bytes(device or weight.device)
    if row_bytes * rows > free:
        max_rows = free // row_bytes
        advice = f"{max_rows} rows fit" if max_rows else "not even one row fits, so shorten the context"
        raise BadInput(
            f"a cache of {rows} rows x {capacity} tokens needs {_size(row_bytes * rows)} and {_size(free)} are free; "
            f"{advice}"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
