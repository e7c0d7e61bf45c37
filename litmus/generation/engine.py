"""The engine: many requests decoded together through one cache; rows join and leave between steps."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from litmus.errors import BadInput
from litmus.generation.filters import History
from litmus.generation.memory import check_room
from litmus.generation.sampling import Sampling, Settings, next_tokens
from litmus.generation.stepping import DecodeStep
from litmus.generation.weights import DecodePrecision, prepared
from litmus.model import Decoder

PREFILL = 512
"""Tokens of joining prompts that enter between two decode steps; more at once would hold up the rows that decode."""

Finish = Literal["stop", "length", "context"]
Overflow = Literal["stop", "slide"]


@dataclass(frozen=True)
class Request:
    """A prompt and how to go on from it. `stop` holds the tokens that end it; they are not part of the result."""

    tokens: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 100
    seed: int = 0
    stop: Collection[int] = ()
    logprobs: bool = False


@dataclass(frozen=True)
class Event:
    """One more token of a request, and why it ended if it did; a stop token ends it without a token.

    `logprob` (nats) is the model's own, before temperature and filters.
    """

    id: int
    token: int | None
    logprob: float | None = None
    finished: Finish | None = None


@dataclass
class Row:
    """A request in its place in the cache, which holds `held` of its tokens; `pending` ones are still to enter."""

    id: int
    request: Request
    pending: deque[int]
    random: random.Random
    tokens: list[int]
    held: int = 0
    drawn: int = 0
    ending: Finish | None = None
    """Why the token drawn last is its last one, if it is."""
    fresh: bool = False
    """The logits after its last token are there, and nothing was drawn from them yet."""
    due: bool = False
    """A token was drawn that the model has not seen and shall see."""


class Engine:
    """Decodes the requests given to `submit`, up to `rows` at a time, in a cache of `capacity` tokens per row.

    A row's text does not depend on its neighbours, up to rounding. `capacity` defaults to the recipe's context.
    `overflow` says what happens at its end: the row stops, or goes on from the last half of its tokens, which enter
    a cleared place as a prompt would (a way that works for every mixer). `compile` compiles the decode step; on a
    GPU it is also replayed as a CUDA graph. `int8` holds linear weights in 8 bits. The model is put in evaluation mode.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        rows: int = 8,
        capacity: int | None = None,
        precision: DecodePrecision | None = None,
        compile: bool = False,
        int8: bool = False,
        overflow: Overflow = "stop",
        prefill: int = PREFILL,
    ) -> None:
        if overflow not in get_args(Overflow):
            raise BadInput(f"overflow {overflow!r} is unknown; stop and slide are valid")
        context = model.recipe.context
        self.model = prepared(model, precision, int8=int8).eval()
        self.capacity = min(capacity or context, context)
        self.overflow = overflow
        self.prefill = prefill
        self.device = model.embedding.weight.device
        check_room(self.model, rows, self.capacity)
        with torch.inference_mode():
            self.cache = self.model.new_cache(rows, self.capacity)
            self.tokens = torch.zeros(rows, dtype=torch.long, device=self.device)
            self.history = History(rows, self.capacity, self.device)
        self._places: list[Row | None] = [None] * rows
        self._queue: deque[Row] = deque()
        self._submitted = 0
        self._logits: Tensor | None = None
        self._settings: Settings | None = None
        self._ahead = self.device.type == "cuda"
        self._decode_step = DecodeStep(self.model, self.cache, compile=compile)

    def submit(self, request: Request) -> int:
        """Queue a request; returns its number, counted from 0."""
        recipe = self.model.recipe
        check_request(request, self._submitted, self.capacity, recipe.context, recipe.vocab_size)
        tokens = list(request.tokens)
        self._queue.append(Row(self._submitted, request, deque(tokens), random.Random(request.seed), tokens))
        self._submitted += 1
        return self._submitted - 1

    @torch.inference_mode()
    def cancel(self, id: int) -> None:
        """Let a request go, wherever it is; nothing more is heard of it."""
        self._queue = deque(row for row in self._queue if row.id != id)
        for place, row in enumerate(self._places):
            if row is not None and row.id == id:
                self._leave(place)

    @property
    def busy(self) -> bool:
        """Whether any request is not done yet."""
        return bool(self._queue) or any(row is not None for row in self._places)

    def run(self) -> Iterator[Event]:
        """Events until every request is done; more may be submitted on the way."""
        while self.busy:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Some tokens of joining prompts, and one token of every other row.

        On a GPU the model's next pass is launched before this step's tokens are read, so that neither waits for the
        other; a row that turns out to have ended has then been decoded once for nothing.
        """
        if not self._ahead:
            self._decode()
        self._join()
        self._prefill()
        drawing = [(place, row) for place, row in enumerate(self._places) if row is not None and row.fresh]
        if not drawing:
            return []
        drawn, logprobs = self._draw(drawing)
        if self._ahead:
            drawn, logprobs, wait = _on_the_way(drawn, logprobs)
            self._decode()
            wait()
        return self._collect(drawing, drawn.tolist(), None if logprobs is None else logprobs.tolist())

    def _join(self) -> None:
        """Give free places to requests that wait."""
        for place, row in enumerate(self._places):
            if row is None and self._queue:
                joining = self._places[place] = self._queue.popleft()
                self.history.begin(place, joining.tokens)
                self._settings = None

    def _leave(self, place: int) -> None:
        self.cache.reset_rows(slice(place, place + 1))
        self._places[place] = None
        self._settings = None

    def _prefill(self) -> None:
        """Let up to `prefill` tokens of joining prompts into the cache, rows that stand side by side at once."""
        room = self.prefill
        while room > 0 and (group := self._joining()):
            rows = [row for row in self._places[group.start : group.stop] if row is not None]
            length = max(1, min(room // len(rows), *(len(row.pending) for row in rows)))
            tokens = torch.tensor([[row.pending.popleft() for _ in range(length)] for row in rows], device=self.device)
            part = self.cache.slice_rows(group.start, group.stop)
            part.start = part.used = rows[0].held
            self._keep(self.model.last_logits(tokens, part), group.start)
            for row in rows:
                row.held += length
                row.fresh = not row.pending
            room -= length * len(rows)

    def _joining(self) -> range | None:
        """The places of the row that has waited longest and of those behind it that have got as far."""
        waiting = [(row.id, place) for place, row in enumerate(self._places) if row is not None and row.pending]
        if not waiting:
            return None
        first = min(waiting)[1]
        ends = itertools.takewhile(lambda row: row is not None and row.pending, self._places[first:])
        alike = itertools.groupby(row.held for row in ends if row is not None)
        return range(first, first + len(list(next(alike)[1])))

    def _decode(self) -> None:
        """Give the model the tokens drawn last, in all rows that go on."""
        going = [row is not None and row.due for row in self._places]
        if not any(going):
            return
        held = [0 if row is None else row.held for row in self._places]
        self._keep(self._decode_step(self.tokens, held, going), 0)
        for row in self._places:
            if row is not None and row.due:
                row.held, row.due, row.fresh = row.held + 1, False, True

    def _keep(self, logits: Tensor, first: int) -> None:
        if self._logits is None:
            self._logits = logits.new_zeros(len(self._places), logits.shape[1])
        self._logits[first : first + len(logits)] = logits

    def _draw(self, drawing: list[tuple[int, Row]]) -> tuple[Tensor, Tensor | None]:
        """The next token of the rows with fresh logits, and the log-probabilities where somebody asked; both (n,)."""
        assert self._logits is not None
        number = 1 + drawing[-1][0]
        logits, history = self._logits[:number], self.history.part(number)
        settings = self._settings_of(number)
        drawn = next_tokens(logits, settings, self._uniform(drawing, number), history)
        self.tokens[:number] = drawn
        if settings.looks_back:
            real = torch.zeros(number, dtype=torch.bool)
            real[[place for place, _ in drawing]] = True
            history.append(drawn, real.to(self.device))
        for _, row in drawing:
            row.drawn, row.fresh = row.drawn + 1, False
            if row.drawn == row.request.max_new_tokens:
                row.ending = "length"
            elif row.held + 1 >= self.capacity:
                row.ending = "context"
            row.due = row.ending is None
        if not any(row.request.logprobs for _, row in drawing):
            return drawn, None
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return drawn, exact.gather(1, drawn[:, None])[:, 0] - exact.logsumexp(-1)

    def _settings_of(self, number: int) -> Settings:
        """The settings of the first `number` places, kept until somebody joins or leaves."""
        if self._settings is None or self._settings.rows != number:
            requests = [None if row is None else row.request for row in self._places[:number]]
            sampling = [None if request is None else request.sampling for request in requests]
            ends = [() if request is None else request.stop for request in requests]
            self._settings = Settings(sampling, self.model.recipe.vocab_size, self.device, ends)
        return self._settings

    def _uniform(self, drawing: list[tuple[int, Row]], number: int) -> Tensor:
        """One number in [0, 1) for each place, from its row's own generator."""
        numbers = [0.0] * number
        for place, row in drawing:
            numbers[place] = row.random.random()
        uniform = torch.tensor(numbers, dtype=torch.float64)
        return uniform.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else uniform

    def _collect(self, drawing: list[tuple[int, Row]], drawn: list[int], logprobs: list[float] | None) -> list[Event]:
        """What the drawn tokens mean for their rows."""
        events = []
        for place, row in drawing:
            token, ending = drawn[place], row.ending
            if token in row.request.stop:
                events.append(Event(row.id, None, finished="stop"))
                self._leave(place)
                continue
            row.tokens.append(token)
            if ending == "context" and self.overflow == "slide":
                self._slide(place, row)
                ending = None
            logprob = logprobs[place] if logprobs is not None and row.request.logprobs else None
            events.append(Event(row.id, token, logprob, ending))
            if ending is not None:
                self._leave(place)
        return events

    def _slide(self, place: int, row: Row) -> None:
        """Clear the row's place and let the last half of its tokens in as if they were a prompt."""
        self.cache.reset_rows(slice(place, place + 1))
        row.tokens = row.tokens[-(self.capacity // 2) :]
        row.pending, row.held, row.ending = deque(row.tokens), 0, None
        self.history.begin(place, row.tokens, row.drawn)


def _on_the_way(drawn: Tensor, logprobs: Tensor | None) -> tuple[Tensor, Tensor | None, Callable[[], None]]:
    """Copies on the host, and what waits until they are there; work that is launched meanwhile is not waited for."""
    copies = drawn.to("cpu", non_blocking=True), None if logprobs is None else logprobs.to("cpu", non_blocking=True)
    if not drawn.is_cuda:
        return *copies, lambda: None
    done = torch.cuda.Event()
    done.record()
    return *copies, done.synchronize


def check_length(max_new_tokens: int) -> None:
    """BadInput for a continuation of no tokens."""
    if max_new_tokens < 1:
        raise BadInput(f"max_new_tokens = {max_new_tokens} generates nothing; it must be at least 1")


def check_request(request: Request, number: int, capacity: int, context: int, vocabulary: int) -> None:
    """BadInput for what cannot be continued."""
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
