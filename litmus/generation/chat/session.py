"""A chat in a terminal: reads lines, prints replies as they are generated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from litmus.data import Tokenizer
from litmus.errors import BadInput, nearest
from litmus.files import write_atomically
from litmus.generation.chat.conversation import Conversation
from litmus.generation.decode_weights import DecodePrecision, prepare
from litmus.generation.detokenizer import IncrementalDetokenizer
from litmus.generation.engine import Engine, Request, check_length
from litmus.generation.generate import TextChunk, text_chunks
from litmus.generation.sampling import Sampling
from litmus.model import Decoder

HELP = """\
/reset       forget the conversation
/temp 0.5    change the temperature; 0 is greedy
/save FILE   write the conversation as JSON into a new file
/quit        leave, as Ctrl-D does
Ctrl-C stops a reply and keeps its beginning."""


class Session:
    """One conversation with a model. `sampling` are settings of `Sampling`; reply number i samples with seed + i.

    The KV cache is kept between replies, so that each prefills only what is new.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        conversation: Conversation,
        out: TextIO,
        *,
        max_new_tokens: int = 200,
        seed: int = 0,
        precision: DecodePrecision | None = None,
        **sampling: Any,
    ) -> None:
        Sampling.of(sampling)
        check_length(max_new_tokens)
        self.model = prepare(model, precision)
        self.tokenizer, self.conversation, self.out = tokenizer, conversation, out
        self.max_new_tokens = min(max_new_tokens, conversation.context // 2)
        self.stop, self.stop_strings = conversation.template.stops(tokenizer)
        self.seed = seed
        self.sampling = sampling
        self._engine: Engine | None = None
        self.commands: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/temp": self._temperature,
            "/save": self._save,
            "/help": lambda argument: self._say(HELP),
        }

    def run(self, read: Callable[[], str]) -> None:
        """Answer each line of `read` until EOFError or /quit; bad input is reported in a sentence."""
        while True:
            try:
                line = read().strip()
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._say("\n/quit or Ctrl-D leaves")
                continue
            if line == "/quit":
                return
            try:
                self._answer(line)
            except BadInput as error:
                self._say(str(error))

    def _answer(self, line: str) -> None:
        if line.startswith("/"):
            name, _, argument = line.partition(" ")
            if name not in self.commands:
                raise BadInput(f"unknown command {name}; {nearest(name, [*self.commands, '/quit'])}")
            self.commands[name](argument.strip())
        elif line:
            self._reply(line)

    def _reply(self, line: str) -> None:
        """Generate and print the reply to one message; Ctrl-C ends it."""
        self.conversation.add("user", line)
        try:
            prompt = self.conversation.prompt(self.max_new_tokens)
        except BadInput:
            self.conversation.messages.pop()
            raise
        reply = ""
        try:
            for chunk in self._generate(prompt):
                new = chunk.text if reply else chunk.text.lstrip()
                print(new, end="", file=self.out, flush=True)
                reply += new
        except KeyboardInterrupt:  # the beginning of the reply is kept, and a cache in an unknown state is not
            self._engine = None
        self.conversation.add("assistant", reply.strip())
        self._say("")

    def _generate(self, prompt: list[int]) -> Iterator[TextChunk]:
        """The reply to a prompt, by an engine that holds the conversation so far."""
        length = len(prompt) + self.max_new_tokens
        if self._engine is None or self._engine.capacity < length:
            # Twice as long as needed, so that a conversation is seldom prefilled anew.
            self._engine = Engine(self.model, max_batch_size=1, capacity=min(2 * length, self.conversation.context))
        request = Request(prompt, Sampling.of(self.sampling), self.max_new_tokens, self.seed, self.stop)
        self.seed += 1
        id = self._engine.submit(request)
        return text_chunks(self._engine, {id: IncrementalDetokenizer(self.tokenizer, self.stop_strings)})

    def _reset(self, argument: str) -> None:
        self.conversation.reset()
        self._say("forgotten")

    def _temperature(self, argument: str) -> None:
        changed = {**self.sampling, "temperature": argument}
        Sampling.of(changed)
        self.sampling = {**changed, "temperature": float(argument)}
        self._say(f"temperature {argument}")

    def _save(self, argument: str) -> None:
        if not argument:
            raise BadInput("/save needs a file, e.g. /save chat.json")
        if Path(argument).is_file():
            raise BadInput(f"{argument} is there already; choose another file")
        messages = self.conversation.messages
        try:
            write_atomically(Path(argument), json.dumps({"messages": messages}, ensure_ascii=False, indent=2) + "\n")
        except OSError as error:
            raise BadInput(f"{argument} cannot be written: {error.strerror}; choose another file") from None
        self._say(f"{len(messages)} messages in {argument}")

    def _say(self, text: str) -> None:
        print(text, file=self.out, flush=True)
