"""Prompts and tokens from the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from litmus.data import Tokenizer
from litmus.errors import BadInput

MAX_PROMPT_BYTES = 2**26
"""Of the prompts in a file or on standard input."""

MAX_CONTINUATIONS, MAX_TOKENS = 10_000, 10_000_000
"""Of one command; a small model takes hours for these on a CPU."""


def check_amount(texts: int, tokens: int) -> None:
    """BadInput when `texts` continuations of up to `tokens` new tokens each exceed the limits of one command."""
    if texts > MAX_CONTINUATIONS or texts * tokens > MAX_TOKENS:
        raise BadInput(
            f"{texts:,} continuations of up to {tokens:,} tokens are {texts * tokens:,} tokens; one command writes at "
            f"most {MAX_CONTINUATIONS:,} continuations and {MAX_TOKENS:,} tokens, so lower --n or --max-new-tokens, or "
            f"give fewer prompts at a time"
        )


def read_prompts(prompt: str | None, file: Path | None, stdin: BinaryIO | None) -> list[str]:
    """The prompts: one text, the lines of a file, or all of standard input; an empty one when none was given."""
    given = [
        name for name, source in (("--prompt", prompt), ("--file", file), ("--stdin", stdin)) if source is not None
    ]
    if len(given) > 1:
        raise BadInput(f"{' and '.join(given)} were given together; choose one of them")
    if stdin is not None:
        return [_text(stdin.read(MAX_PROMPT_BYTES + 1), "standard input")]
    if file is not None:
        try:
            with file.open("rb") as opened:
                text = _text(opened.read(MAX_PROMPT_BYTES + 1), str(file))
        except OSError as error:
            raise BadInput(
                f"{file} cannot be read: {error.strerror}; give a text file with one prompt a line"
            ) from None
        if not text:
            raise BadInput(f"{file} is empty; give a text file with one prompt a line")
        return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return [typed(prompt or "", "the prompt")]


def typed(words: str, source: str) -> str:
    """A text from the command line, checked; bytes that are not UTF-8 arrive from the shell as lone surrogates."""
    return _text(words.encode(errors="surrogateescape"), source)


def token_named(name: str, tokenizer: Tokenizer, purpose: str) -> int:
    """The token with that name: an id in decimal digits, or the text of exactly one token."""
    if name.isascii() and name.isdigit():
        if int(name) < tokenizer.vocab_size:
            return int(name)
        raise BadInput(f"unknown {purpose} {name}; this tokenizer has the ids 0 to {tokenizer.vocab_size - 1}")
    tokens = tokenizer.encode(typed(name, f"the {purpose}"))
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
    if len(data) > MAX_PROMPT_BYTES:
        raise BadInput(f"{source} has more than {MAX_PROMPT_BYTES / 2**20:.0f} MiB; give fewer or shorter prompts")
    if b"\0" in data:
        raise BadInput(f"{source} is no text: byte {data.index(0)} is NUL; give UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{source} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; convert it") from None
