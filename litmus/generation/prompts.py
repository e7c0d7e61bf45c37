"""Prompts and tokens as a user names them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from litmus.data import Tokenizer
from litmus.errors import BadInput


def read_prompts(prompt: str | None, file: Path | None, stdin: BinaryIO | None) -> list[str]:
    """The prompts that were given: one text, the lines of a file, or all of standard input; if none, an empty one."""
    given = [
        name for name, source in (("--prompt", prompt), ("--file", file), ("--stdin", stdin)) if source is not None
    ]
    if len(given) > 1:
        raise BadInput(f"{' and '.join(given)} were given together; choose one of them")
    if stdin is not None:
        return [_text(stdin.read(), "standard input")]
    if file is not None:
        try:
            text = _text(file.read_bytes(), str(file))
        except OSError as error:
            raise BadInput(
                f"{file} cannot be read: {error.strerror}; give a text file with one prompt a line"
            ) from None
        if not text:
            raise BadInput(f"{file} is empty; give a text file with one prompt a line")
        return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    # What a shell passes on that is no UTF-8 arrives as lone surrogates.
    return [_text((prompt or "").encode(errors="surrogateescape"), "the prompt")]


def token_named(name: str, tokenizer: Tokenizer, purpose: str) -> int:
    """The token that `name` stands for: an id in decimal digits, or the text of exactly one token."""
    if name.isascii() and name.isdigit():
        if int(name) < tokenizer.vocab_size:
            return int(name)
        raise BadInput(f"unknown {purpose} {name}; this tokenizer has the ids 0 to {tokenizer.vocab_size - 1}")
    tokens = tokenizer.encode(name)
    if len(tokens) != 1:
        parts = ", ".join(repr(tokenizer.decode([token])) for token in tokens[:8]) or "no token"
        raise BadInput(f"unknown {purpose} {name!r}: as tokens it is {parts}; give one token's text or its id")
    return tokens[0]


def biases_named(settings: Sequence[str], tokenizer: Tokenizer) -> dict[int, float]:
    """["the=-2"] as {token id of "the": -2.0}."""
    biases = {}
    for setting in settings:
        name, _, amount = setting.rpartition("=")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not name or not math.isfinite(value):
            raise BadInput(f"logit bias {setting!r} is not of the form TOKEN=AMOUNT, e.g. the=-2")
        biases[token_named(name, tokenizer, "token of a logit bias")] = value
    return biases


def _text(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{source} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; convert it") from None
