"""A conversation, and the tokens of it that a model continues: the newest messages that fit into the context."""

from __future__ import annotations

from collections.abc import Mapping

from litmus.data import Tokenizer
from litmus.data.chat.template import ChatTemplate, Message, Role
from litmus.errors import BadInput, shown


class Conversation:
    """The messages so far. The prompt holds the system message and as many of the newest messages as fit.

    names: of the speakers by role, for templates that write them.
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        context: int,
        system: str = "",
        *,
        names: Mapping[Role, str] | None = None,
    ) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.context = context
        self.names = dict(names or {})
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self._n_system = len(self.messages)
        self._check_names()

    def add(self, role: Role, content: str) -> None:
        """Append a message."""
        message: Message = {"role": role, "content": content}
        if role in self.names:
            message["name"] = self.names[role]
        self.messages.append(message)

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
            tokens = self._encode([*system, *messages])
            if len(tokens) + max_new_tokens <= self.context:
                return tokens
            later = [number for number, message in enumerate(messages) if number and message["role"] == "user"]
            if not later:
                raise BadInput(
                    f"the message takes {len(tokens)} tokens and {self.context - max_new_tokens} fit together with a "
                    f"reply of {max_new_tokens}; shorten it"
                )
            messages = messages[later[0] :]

    def _encode(self, messages: list[Message]) -> list[int]:
        return self.template.encode(messages, self.tokenizer, reply_name=self.names.get("assistant"))

    def _check_names(self) -> None:
        """BadInput for a name that cannot be printed, and for one that the template does not write."""
        for role, name in self.names.items():
            if not name.strip() or not name.isprintable():
                raise BadInput(f"the name {shown(name)} cannot be printed; give one of letters, digits and signs")
            message: Message = {"role": role, "content": "", "name": name}
            if name not in self.template.render([message], self.tokenizer, add_generation_prompt=False):
                raise BadInput(f"{self.template.origin} writes no names, so that {shown(name)} would have no effect")
