"""A conversation as the text that a model continues: how messages are written, and which of them still fit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from litmus.data import Tokenizer
from litmus.errors import BadInput, first_fault
from litmus.yaml_json import mapping, read_json

FILE_NAME = "chat.json"
"""A run with this file was trained on conversations, and the file says how they are written."""

Role = Literal["system", "user", "assistant"]
HERE = "{text}"


class Message(BaseModel):
    role: Role
    text: str


class Template(BaseModel):
    """How each role's message is written, with {text} where its text goes, and the texts that end a reply besides.

    What follows {text} in `assistant` ends a reply as well, unless it is blank. The defaults are plain text, for models
    that were trained on no conversations.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    system: str = "{text}\n\n"
    user: str = "User: {text}\n"
    assistant: str = "Assistant: {text}\n"
    stop: tuple[str, ...] = ("\nUser:", "\nAssistant:")

    @field_validator("system", "user", "assistant")
    @classmethod
    def _has_a_place(cls, form: str) -> str:
        if form.count(HERE) != 1:
            raise ValueError(f"{form!r} must hold {HERE} once, where the text of a message goes")
        return form

    def written(self, messages: list[Message]) -> str:
        """The messages, and the opening of a reply; a space before the reply is the model's to write."""
        texts = [getattr(self, message.role).replace(HERE, message.text) for message in messages]
        return "".join(texts) + self.assistant.split(HERE)[0].rstrip(" ")

    def ends(self) -> list[str]:
        """The texts that end a reply."""
        after = self.assistant.split(HERE)[1].strip()
        return [*self.stop, after] if after else list(self.stop)


def read_template(path: Path) -> Template:
    """The template in a file; BadInput where it cannot be one."""
    raw = mapping(read_json(path), str(path), f"texts; docs/generation.md shows a {FILE_NAME}")
    try:
        return Template.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{path}: {first_fault(error, Template)}") from None


class Conversation:
    """What was said, and how much of it the model still sees: whole messages, the newest that fit."""

    def __init__(self, template: Template, tokenizer: Tokenizer, context: int, system: str = "") -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.context = context
        self.messages = [Message(role="system", text=system)] if system else []
        self._opening = len(self.messages)

    def add(self, role: Role, text: str) -> None:
        self.messages.append(Message(role=role, text=text))

    def reset(self) -> None:
        """Forget everything but the system message."""
        del self.messages[self._opening :]

    def prompt(self, room: int) -> str:
        """The text to continue, with `room` tokens left for the reply: the oldest messages go first, to a user's one.

        BadInput when the newest message does not fit even alone.
        """
        opening, said = self.messages[: self._opening], self.messages[self._opening :]
        while True:
            text = self.template.written([*opening, *said])
            tokens = len(self.tokenizer.prompt(text))
            if tokens + room <= self.context:
                return text
            later = [number for number, message in enumerate(said) if number and message.role == "user"]
            if not later:
                raise BadInput(
                    f"the message takes {tokens} tokens and {self.context - room} fit together with a reply of {room}; "
                    f"shorten it"
                )
            said = said[later[0] :]
