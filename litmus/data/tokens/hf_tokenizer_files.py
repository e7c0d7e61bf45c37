"""Hugging Face tokenizer files: models of tokenizer.json and the files next to it, and what is supported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from litmus.data.json_files import Declared, checked, read_json
from litmus.data.tokens.tokenizer import byte_of_symbol
from litmus.errors import BadInput, shown

SETTINGS, SPECIAL_MAP = "tokenizer_config.json", "special_tokens_map.json"
MODEL_CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>")
"""Common names of the end token, used if no file declares it."""
SPACE = "▁"
"""SentencePiece's symbol for a space."""

MAX_VOCAB_SIZE = 1 << 24
Id = Annotated[int, Field(ge=0, lt=MAX_VOCAB_SIZE)]


class AddedEntry(Declared):
    """An added token."""

    id: Id
    content: Annotated[str, Field(min_length=1)]
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False


class BpeModel(Declared):
    """The tokens and merges of byte-pair encoding."""

    vocab: Annotated[dict[str, Id], Field(min_length=1)]
    merges: list[str | Annotated[list[str], Field(min_length=2, max_length=2)]]
    unk_token: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class TokenizerFile(Declared):
    """The parts of tokenizer.json that Litmus reads; the tokenizers library reads all of it."""

    model: BpeModel
    added_tokens: list[AddedEntry] = Field([])
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None

    @property
    def normalizers(self) -> list[dict[str, Any]]:
        """The normalization steps."""
        return list(_steps(self.normalizer, "normalizers"))

    @property
    def pre_tokenizers(self) -> list[dict[str, Any]]:
        """The pre-tokenization steps."""
        return list(_steps(self.pre_tokenizer, "pretokenizers"))

    @property
    def byte_level(self) -> bool:
        """Whether tokens use GPT-2's byte notation, otherwise SentencePiece's."""
        return any(step.get("type") == "ByteLevel" for step in self.pre_tokenizers)

    def piece(self, text: str) -> bytes:
        """The bytes of a token of the vocabulary."""
        if self.byte_level:
            byte_of = byte_of_symbol()
            return bytes(byte_of[symbol] for symbol in text)
        if self.model.byte_fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            try:
                return bytes([int(text[3:5], 16)])
            except ValueError:
                pass
        return text.replace(SPACE, " ").encode()


class NamedToken(Declared):
    """A special token with options."""

    content: str


Name = str | NamedToken | None


class TokenizerSettings(Declared):
    """tokenizer_config.json or special_tokens_map.json."""

    bos_token: Name = None
    eos_token: Name = None
    unk_token: Name = None
    pad_token: Name = None
    add_prefix_space: bool | None = None
    legacy: bool | None = None
    tokenizer_class: str | None = None
    chat_template: str | list[dict[str, Any]] | None = None

    def name(self, part: str) -> str | None:
        """The name of the bos, eos, unk or pad token."""
        found = getattr(self, f"{part}_token")
        return found.content if isinstance(found, NamedToken) else found


class ModelTokens(Declared):
    """Token ids and tokenizer class in config.json or generation_config.json."""

    model_type: str | None = None
    tokenizer_class: str | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None

    @field_validator("bos_token_id", "eos_token_id")
    @classmethod
    def _can_be_tokens(cls, found: int | list[int] | None) -> int | list[int] | None:
        """Negative ids mean that there is no such token."""
        if any(number >= MAX_VOCAB_SIZE for number in _listed(found)):
            raise ValueError(f"a token number is less than {MAX_VOCAB_SIZE}")
        return found

    @property
    def begins(self) -> list[int]:
        return _listed(self.bos_token_id)

    @property
    def ends(self) -> list[int]:
        return _listed(self.eos_token_id)


class SpecialTokens(BaseModel):
    """Special tokens by id, as saved with a tokenizer.

    end: ends a document. bos: begins a document, if there is such a token. begin, after: added before and after a text.
    stops: end a generation. special: all special tokens by name. steps: normalizer and pre-tokenizer of transformers'
    tokenizer class, which replace those of tokenizer.json.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    end: Id
    bos: Id | None = None
    begin: list[Id] = []
    after: list[Id] = []
    stops: list[Id] = []
    special: dict[str, Id] = {}
    steps: dict[str, Any] = {}


def parse_tokenizer_file(raw: dict[str, Any], path: Path) -> TokenizerFile:
    """Validate a tokenizer.json; BadInput with the reason if it is not supported."""
    model = raw.get("model")
    if not isinstance(model, dict):
        raise BadInput(f"{path}: model = {shown(model)}; a mapping is valid")
    kind = model.get("type", "BPE" if isinstance(model.get("merges"), list) else None)
    if kind == "BPE":
        file = checked(TokenizerFile, raw, str(path))
        reason = _incompatibility(file)
    else:
        reason = f"its model is {shown(kind)}"
    if reason:
        raise BadInput(f"{path}: {reason}; only BPE that keeps every byte of a text is valid")
    return file


def side_files(folder: Path) -> dict[str, Any]:
    """The tokenizer's settings files in a model folder by name: JSON as mappings, chat templates as text."""
    found: dict[str, Any] = {}
    for name in (SETTINGS, SPECIAL_MAP, "added_tokens.json"):
        if (folder / name).is_file():
            found[name] = read_json(folder / name)
    templates = [folder / TEMPLATE, *sorted((folder / TEMPLATES).glob("*.jinja"))]
    for path in templates:
        if path.is_file():
            try:
                found[path.relative_to(folder).as_posix()] = path.read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                raise BadInput(f"{path} cannot be read as UTF-8; a chat template is text") from None
    return found


def model_tokens(folder: Path) -> ModelTokens:
    """Token ids from the model's files; generation_config.json takes precedence over config.json."""
    declared: dict[str, Any] = {}
    for name in (MODEL_CONFIG, GENERATION_CONFIG):
        if (folder / name).is_file():
            ids = checked(ModelTokens, read_json(folder / name), str(folder / name))
            declared |= {key: value for key, value in ids.model_dump().items() if value is not None}
    return ModelTokens(**declared)


def transformers_class_steps(file: TokenizerFile, settings: TokenizerSettings, model: ModelTokens) -> dict[str, Any]:
    """Steps of two transformers classes that use only the vocabulary and merges of tokenizer.json."""
    named = settings.tokenizer_class or model.tokenizer_class or {"gpt2": "GPT2Tokenizer"}.get(model.model_type or "")
    kind = (named or "").removesuffix("Fast")
    if kind == "GPT2Tokenizer":
        step = {"type": "ByteLevel", "add_prefix_space": bool(settings.add_prefix_space), "trim_offsets": True}
        return {"normalizer": None, "pre_tokenizer": {**step, "use_regex": True}}
    if kind == "LlamaTokenizer" and not file.byte_level:
        scheme = "never" if settings.add_prefix_space is False else "always" if settings.legacy else "first"
        step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
        return {"normalizer": None, "pre_tokenizer": step}
    return {}


def _listed(found: int | list[int] | None) -> list[int]:
    return found if isinstance(found, list) else [] if found is None else [found]


def _steps(step: Any, inner: str) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if not isinstance(step, dict):
        raise BadInput(f"tokenizer.json: a step of {inner} is {shown(step)}; a mapping is valid")
    if step.get("type") != "Sequence":
        yield step
        return
    steps = step.get(inner)
    if not isinstance(steps, list):
        raise BadInput(f"tokenizer.json: {inner} = {shown(steps)}; a list is valid")
    for one in steps:
        yield from _steps(one, inner)


def _incompatibility(file: TokenizerFile) -> str | None:
    """Why texts could not be decoded exactly, or their bytes not be counted; None if they can."""
    model, symbols = file.model, set(byte_of_symbol())
    for step in file.pre_tokenizers:
        kind = step.get("type")
        if kind not in ("ByteLevel", "Metaspace", "Split", "Digits") or step.get("behavior") == "Removed":
            return f"its pre-tokenizer {shown(kind)} may lose characters"
        if kind == "Metaspace" and (file.byte_level or step.get("replacement") != SPACE):
            return f"its pre-tokenizer writes a space as {shown(step.get('replacement'))}"
    for step in file.normalizers:
        kind = step.get("type")
        # NFC leaves text unchanged that is already composed, as most text is.
        spaces = kind == "Replace" and step.get("content") == SPACE and step.get("pattern") == {"String": " "}
        dummy = kind == "Prepend" and step.get("prepend") == SPACE
        if not (kind == "NFC" or (not file.byte_level and (spaces or dummy))):
            return f"its normalizer {shown(kind)} changes the text"
    if not file.byte_level:
        metaspace = any(step.get("type") == "Metaspace" for step in file.pre_tokenizers)
        if not metaspace and not any(step.get("type") == "Replace" for step in file.normalizers):
            return "it does not cut text into bytes"
    if model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return "its merges are random, or mark parts of words"
    if any(not token.special and (token.lstrip or token.rstrip) for token in file.added_tokens):
        return "an added token takes the spaces next to it"
    added = {token.content for token in file.added_tokens}
    if not file.byte_level:
        return None
    odd = next((text for text in model.vocab if text not in added and not symbols.issuperset(text)), None)
    return None if odd is None else f"its token {shown(odd)} is not written in bytes"
