"""The tokenizer of a GGUF file as Hugging Face's tokenizer.json: byte-level BPE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from litmus.data.json_files import Declared, checked
from litmus.data.tokens.hf_tokenizer import ImportedTokenizer, make_hf_tokenizer
from litmus.data.tokens.hf_tokenizer_files import SETTINGS, Id, ModelTokens
from litmus.errors import BadInput, shown

CONTROL, USER_DEFINED = 3, 4
"""Token types: special tokens, and tokens that are found in a text before it is cut."""

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
}
"""The steps of tokenizer.json that each pre-tokenizer of llama.cpp stands for."""


class TokenizerKeys(Declared):
    """The metadata of a tokenizer that is read."""

    model: Literal["gpt2"] = Field(alias="tokenizer.ggml.model")
    pre: Literal["gpt-2", "smollm"] = Field(alias="tokenizer.ggml.pre")
    tokens: Annotated[list[str], Field(min_length=1)] = Field(alias="tokenizer.ggml.tokens")
    types: list[int] = Field([], alias="tokenizer.ggml.token_type")
    merges: list[str] = Field(alias="tokenizer.ggml.merges")
    bos: Id | None = Field(None, alias="tokenizer.ggml.bos_token_id")
    eos: Id = Field(alias="tokenizer.ggml.eos_token_id")
    eot: Id | None = Field(None, alias="tokenizer.ggml.eot_token_id")
    unk: Id | None = Field(None, alias="tokenizer.ggml.unknown_token_id")
    pad: Id | None = Field(None, alias="tokenizer.ggml.padding_token_id")
    add_bos: bool = Field(False, alias="tokenizer.ggml.add_bos_token")
    add_eos: bool = Field(False, alias="tokenizer.ggml.add_eos_token")
    chat_template: str | None = Field(None, alias="tokenizer.chat_template")


def to_tokenizer(metadata: Mapping[str, Any], path: Path) -> ImportedTokenizer:
    """The tokenizer with its special tokens and chat template. BadInput for one that is not byte-level BPE."""
    keys = checked(TokenizerKeys, dict(metadata), str(path))
    vocab = {token: number for number, token in enumerate(keys.tokens)}
    if len(vocab) < len(keys.tokens):
        twice = next(token for number, token in enumerate(keys.tokens) if vocab[token] != number)
        raise BadInput(f"{path}: the token {shown(twice)} occurs twice in tokenizer.ggml.tokens")
    named = {"bos": keys.bos, "eos": keys.eos, "eot": keys.eot, "unk": keys.unk, "pad": keys.pad}
    if outside := [name for name, number in named.items() if number is not None and number >= len(vocab)]:
        raise BadInput(f"{path}: the {outside[0]} token is {named[outside[0]]}, and there are {len(vocab)} tokens")
    settings: dict[str, Any] = {
        f"{name}_token": keys.tokens[number] for name, number in named.items() if number is not None and name != "eot"
    }
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if keys.chat_template is not None:
        settings["chat_template"] = keys.chat_template
    stops = list(dict.fromkeys(number for number in (keys.eos, keys.eot) if number is not None))
    model = ModelTokens(bos_token_id=keys.bos, eos_token_id=stops)
    return make_hf_tokenizer(path.stem, _file(keys, vocab), {SETTINGS: settings}, model, path)


def _file(keys: TokenizerKeys, vocab: dict[str, int]) -> dict[str, Any]:
    """The content of tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": number, "content": token, **flags, "special": kind == CONTROL}
        for number, (token, kind) in enumerate(zip(keys.tokens, keys.types, strict=False))
        if kind in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[keys.pre]},
        "post_processor": _around(keys),
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": keys.merges,
        },
    }


def _around(keys: TokenizerKeys) -> dict[str, Any] | None:
    """The post-processor, which puts the begin or end token around a text if the file asks for it."""
    begin = [keys.bos] if keys.add_bos and keys.bos is not None else []
    end = [keys.eos] if keys.add_eos else []
    if not begin and not end:
        return None

    def pieces(numbers: list[int]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": keys.tokens[number], "type_id": 0}} for number in numbers]

    text = {letter: {"Sequence": {"id": letter, "type_id": place}} for place, letter in enumerate("AB")}
    return {
        "type": "TemplateProcessing",
        "single": [*pieces(begin), text["A"], *pieces(end)],
        "pair": [*pieces(begin), text["A"], *pieces(end), *pieces(begin), text["B"], *pieces(end)],
        "special_tokens": {
            keys.tokens[number]: {"id": keys.tokens[number], "ids": [number], "tokens": [keys.tokens[number]]}
            for number in [*begin, *end]
        },
    }
