"""Chat templates: messages as the text of a model's training format, by a Jinja `chat_template` as in transformers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from litmus.data.chat.encoding import Runs, encode_runs, marked, marked_name, split_runs, with_begin
from litmus.data.json_files import Declared, checked
from litmus.data.tokens.hf_tokenizer import ImportedTokenizer
from litmus.data.tokens.hf_tokenizer_files import SETTINGS, TEMPLATE
from litmus.data.tokens.tokenizer import END_NAME, Tokenizer
from litmus.errors import BadInput, first_fault, shown
from litmus.files import read_regular_file
from litmus.yaml_json import mapping, read_json

FILE_NAMES = ("chat.json", TEMPLATE)
"""The files of a run folder that hold its chat template; the first found is used."""

ASSISTANT = "assistant"
Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One message of a conversation."""

    role: Role
    content: str
    name: NotRequired[str]


class ChatTemplate:
    """A Jinja template, rendered in a sandbox, and the stop strings of a reply besides the end of its message.

    As in transformers, the template sees `messages`, `add_generation_prompt`, `bos_token` and `eos_token`, besides
    `reply_name`, the name of who replies. Special tokens in its own text are read as tokens; in the contents and names
    of messages they are text, and with `special=False` everywhere.
    """

    def __init__(
        self, source: str, *, stop_strings: Sequence[str] = (), special: bool = True, origin: str = "chat_template"
    ) -> None:
        self.source, self.special, self.origin = source, special, origin
        self._stop_strings = tuple(stop_strings)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise BadInput(f"{origin}: line {error.lineno} of the chat template is not valid Jinja: {error}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokenizer: Tokenizer | None = None,
        *,
        add_generation_prompt: bool = True,
        reply_name: str | None = None,
    ) -> str:
        """The text of the messages, followed by the beginning of a reply by `reply_name`."""
        bos, eos = ("", "") if tokenizer is None else _begin_and_end(tokenizer)
        tokens: dict[str, Any] = {"bos_token": bos, "eos_token": eos, "tools": None, "documents": None}
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                reply_name=reply_name or ASSISTANT,
                **tokens,
            )
        except Exception as error:  # whatever the template's code raises
            raise BadInput(f"{self.origin}: the chat template cannot be rendered: {shown(str(error))}") from None

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer, *, reply_name: str | None = None) -> list[int]:
        """The tokens of the messages and the beginning of a reply; names of control tokens in a message are text.

        BadInput if a message has such a name and the template changes the contents of messages.
        """
        text = self.render(messages, tokenizer, reply_name=reply_name)
        if not self.special:
            return tokenizer.prompt(text)
        told = [str(part) for message in messages for part in message.values()] + [reply_name or ""]
        held = [name for name in tokenizer.special if name and any(name in part for part in told)]
        if not held:
            return with_begin(tokenizer.encode(text, allow_special=True), tokenizer)
        runs = self.runs(messages, tokenizer, reply_name=reply_name, add_generation_prompt=True)
        if runs is None:
            raise BadInput(f"the message holds {shown(held[0])}, a special token of this model; leave it out")
        return encode_runs([runs], tokenizer)[0].ids

    def runs(
        self,
        messages: Sequence[Message],
        tokenizer: Tokenizer,
        *,
        replies: Collection[int] = (),
        reply_name: str | None = None,
        add_generation_prompt: bool = False,
    ) -> Runs | None:
        """The messages as runs of text and control tokens, with those of the messages whose numbers are `replies`.

        None if the template changes the contents of messages.
        """
        name = None if reply_name is None else marked_name(reply_name)
        options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, "reply_name": name}
        contents = [number for number, message in enumerate(messages) if message["content"].strip()]
        text = self.render(marked(messages), tokenizer, **options)
        return split_runs(text, tokenizer.special if self.special else {}, replies, contents)

    def stops(self, tokenizer: Tokenizer) -> tuple[list[int], list[str]]:
        """The stop tokens and stop strings of a reply, including the end of an assistant's message in the template."""
        reply = "reply"
        messages: list[Message] = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": reply}]
        try:
            end = self.render(messages, tokenizer, add_generation_prompt=False).rpartition(reply)[2].strip()
        except BadInput:  # the template demands other messages
            end = ""
        strings = list(self._stop_strings)
        if self.special and end:
            first = tokenizer.encode(end, allow_special=True)[0]
            if first in tokenizer.special.values():
                return [*tokenizer.stop_ids, first], strings
        return list(tokenizer.stop_ids), [*strings, end] if end else strings


def read_template(path: Path) -> ChatTemplate:
    """The chat template of a .jinja file, or of a JSON file: tokenizer_config.json, or a run's chat.json.

    JSON holds `chat_template` and optionally `stop_strings`. BadInput for a file that is not a chat template.
    """
    if path.suffix != ".json":
        try:
            source = read_regular_file(path).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise BadInput(f"{path} cannot be read: {reason}; give a chat template") from None
        return ChatTemplate(source, origin=str(path))
    raw = mapping(read_json(path), str(path), "texts; docs/generation.md shows a chat template")
    if "chat_template" in raw:
        return _from_settings(raw, str(path))
    try:
        return LegacyTemplate.model_validate(raw).to_jinja(str(path))
    except ValidationError as error:
        raise BadInput(f"{path}: {first_fault(error, LegacyTemplate)}") from None


def template_of(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The chat template of a run: its own file, else that of its imported tokenizer; None for a base model."""
    for name in FILE_NAMES:
        if (folder / name).exists():
            return read_template(folder / name)
    side_files = tokenizer.side_files if isinstance(tokenizer, ImportedTokenizer) else {}
    if TEMPLATE in side_files:
        return ChatTemplate(side_files[TEMPLATE], origin=TEMPLATE)
    settings = side_files.get(SETTINGS, {})
    return _from_settings(settings, SETTINGS) if settings.get("chat_template") else None


class TemplateSettings(Declared):
    """The keys of tokenizer_config.json and chat.json about chat."""

    chat_template: str | list[dict[str, str]]
    stop_strings: tuple[str, ...] = Field((), strict=False)


def _from_settings(raw: dict[str, Any], origin: str) -> ChatTemplate:
    settings = checked(TemplateSettings, raw, origin)
    source = settings.chat_template
    if not isinstance(source, str):  # several, by name
        named = {entry.get("name", ""): entry.get("template", "") for entry in source}
        if "default" not in named:
            raise BadInput(f"{origin}: chat_template names {shown(list(named))}; one named 'default' is needed")
        source = named["default"]
    return ChatTemplate(source, stop_strings=settings.stop_strings, origin=origin)


CONTENT = "{text}"


class LegacyTemplate(BaseModel):
    """chat.json of Litmus 0.1.0: the form of each role's message, with {text} for its content, and stop strings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    system: str = "{text}\n\n"
    user: str = "User: {text}\n"
    assistant: str = "Assistant: {text}\n"
    stop: tuple[str, ...] = ("\nUser:", "\nAssistant:")

    @field_validator("system", "user", "assistant")
    @classmethod
    def _holds_content_once(cls, form: str) -> str:
        if form.count(CONTENT) != 1:
            raise ValueError(f"{form!r} must hold {CONTENT} once, where the text of a message goes")
        return form

    def to_jinja(self, origin: str) -> ChatTemplate:
        """The same as a Jinja template. A reply begins without the spaces before it, which the model generates."""

        def expression(text: str) -> str:
            return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"

        source = ""
        for role in ("system", "user", "assistant"):
            before, after = getattr(self, role).split(CONTENT)
            form = f"{expression(before)}{{{{ message['content'] }}}}{expression(after)}"
            source += f"{{% if message['role'] == '{role}' %}}{form}{{% endif %}}"
        opening = expression(self.assistant.split(CONTENT)[0].rstrip(" "))
        source = f"{{% for message in messages %}}{source}{{% endfor %}}"
        source += f"{{% if add_generation_prompt %}}{opening}{{% endif %}}"
        return ChatTemplate(source, stop_strings=self.stop, special=False, origin=origin)


NAMED_SPEAKERS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['name'] or message['role'] }}: {{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ reply_name }}:{% endif %}"
)
"""`NAME: TEXT<end>` for each message, with the end token of documents, which every tokenizer has (as in DialoGPT, Zhang
et al. 2020, arXiv 1911.00536). Any number of speakers may talk."""


def named_speakers() -> ChatTemplate:
    """The template of models that are trained on threads, unless their tokenizer has one of its own."""
    return ChatTemplate(NAMED_SPEAKERS, origin="the template of named speakers")


def plain_dialogue() -> ChatTemplate:
    """A dialogue of "User:" and "Assistant:" in plain text, for models that were trained on no conversations."""
    return LegacyTemplate().to_jinja("the plain dialogue")


class _Generation(Extension):
    """`{% generation %}`, which marks the tokens to train on in transformers, and renders its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """The sandbox, extensions and functions that chat templates have in transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    return environment


def _begin_and_end(tokenizer: Tokenizer) -> tuple[str, str]:
    """The names of the begin and end token; empty for one that the tokenizer does not have."""
    if not isinstance(tokenizer, ImportedTokenizer):
        return END_NAME, END_NAME
    names = {number: name for name, number in tokenizer.special.items()}
    end = names.get(tokenizer.eos_id, "")
    if tokenizer.around is None:
        return end, end
    return "" if tokenizer.around.bos is None else names.get(tokenizer.around.bos, ""), end
