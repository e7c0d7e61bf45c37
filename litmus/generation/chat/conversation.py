"""A conversation, and the tokens of it that a model continues: the newest messages that fit into the context."""

from __future__ import annotations

from litmus.data import Tokenizer
from litmus.data.chat.template import ChatTemplate, Message, Role
from litmus.errors import BadInput


class Conversation:
    """The messages so far. The prompt holds the system message and as many of the newest messages as fit."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, context: int, system: str = "") -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.context = context
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self._n_system = len(self.messages)

    def add(self, role: Role, content: str) -> None:
        """Append a message."""
        self.messages.append({"role": role, "content": content})

    def reset(self) -> None:
        """Forget everything except the system message."""
        del self.messages[self._n_system :]

    def prompt(self, max_new_tokens: int) -> list[int]:
        """The tokens to continue, leaving room for `max_new_tokens`.

        The oldest messages are dropped, whole, so that the first one left is a user's. BadInput when the newest message
        does not fit even alone.
        """
        system, messages = self.messages[: self._n_system], self.messages[self._n_system :]
        while True:
            tokens = self.template.encode([*system, *messages], self.tokenizer)
            if len(tokens) + max_new_tokens <= self.context:
                return tokens
            later = [number for number, message in enumerate(messages) if number and message["role"] == "user"]
            if not later:
                raise BadInput(
                    f"the message takes {len(tokens)} tokens and {self.context - max_new_tokens} fit together with a "
                    f"reply of {max_new_tokens}; shorten it"
                )
            messages = messages[later[0] :]
