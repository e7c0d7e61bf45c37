"""Tokenizers: the base class, bytes, and byte-pair encoding."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from litmus.errors import BadInput, shown
from litmus.files import write_atomically

FILE_NAME = "tokenizer.json"


END_NAME = "<|endoftext|>"
"""Text form of the end token of Litmus's own tokenizers."""


class Tokenizer(ABC):
    """Text to token ids and back. `pieces[i]` are the bytes of token i; `eos_id`, which ends documents, has none.

    Any text can be encoded, decoding returns exactly that text, and the bytes of each token are known.
    prefix: tokens before a document. window_prefix: tokens before every sequence, if the model expects them.
    stop_ids: tokens that end a generation. adds_prefix_space: whether the first token of a text contains a space that
    is not in the text.
    """

    adds_prefix_space: bool = False

    def __init__(self, name: str, pieces: list[bytes], eos_id: int):
        self.name = name
        self.pieces = pieces
        self.vocab_size = len(pieces)
        self.eos_id = eos_id
        self.prefix: tuple[int, ...] = (eos_id,)
        self.window_prefix: tuple[int, ...] = ()
        self.stop_ids: tuple[int, ...] = (eos_id,)

    @property
    def separator(self) -> tuple[int, ...]:
        """Tokens between two documents: the end of one and the prefix of the next, or one token for both."""
        return self.prefix if self.prefix == (self.eos_id,) else (self.eos_id, *self.prefix)

    @property
    def special(self) -> dict[str, int]:
        """Special tokens by name: no text is encoded to them except with `allow_special`."""
        return {END_NAME: self.eos_id}

    @property
    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int64: UTF-8 bytes per token; 0 for the end token."""
        return np.array([len(piece) for piece in self.pieces], dtype=np.int64)

    @abstractmethod
    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        """The token ids of each text, without special tokens; `continuing`: which texts continue the one before."""

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The token ids of `text`; names of special tokens in it are parsed only with `allow_special`."""
        if not allow_special:
            return self.encode_batch([text])[0]
        first, *others = self.encode_batch(text.split(END_NAME))
        return [*first, *(token for part in others for token in (self.eos_id, *part))]

    def prompt(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The tokens of a prompt, with the tokens that the model expects before it; never empty."""
        return [*self.prefix, *self.encode(text, allow_special=allow_special)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; end tokens have none, and an incomplete character becomes U+FFFD."""
        return b"".join(map(self.piece, ids)).decode(errors="replace")

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none beyond the vocabulary, because embeddings may have more rows than tokens."""
        return self.pieces[token] if token < self.vocab_size else b""

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer into `folder`, for `load_tokenizer`."""
        write_atomically(Path(folder) / FILE_NAME, self.to_json())

    def to_json(self) -> str:
        """The content of the file that `save` writes."""
        return json.dumps({"name": self.name, **self._details()})

    def _details(self) -> dict[str, Any]:
        return {}


class ByteTokenizer(Tokenizer):
    """One token per UTF-8 byte (ids 0 to 255) and the end token (256)."""

    def __init__(self) -> None:
        super().__init__("bytes", [*(bytes([value]) for value in range(256)), b""], eos_id=256)

    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        return [list(text.encode()) for text in texts]


class SymbolTokenizer(Tokenizer):
    """The tokens of synthetic tasks: `count` symbols, written as their numbers, such as " 3 17 5"; 0 ends."""

    def __init__(self, count: int) -> None:
        super().__init__("symbols", [b"", *(b" %d" % number for number in range(1, count))], eos_id=0)

    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        return [[self._symbol(word) for word in text.split()] for text in texts]

    def _symbol(self, word: str) -> int:
        if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < self.vocab_size):
            raise BadInput(f"{shown(word)} is no symbol; valid are the numbers from 0 to {self.vocab_size - 1}")
        return int(word)

    def _details(self) -> dict[str, Any]:
        return {"symbols": self.vocab_size}


class BytePairTokenizer(Tokenizer):
    """Byte-level byte-pair encoding: the 256 bytes, then one token per merge, then the end token.

    `merges` are lines such as "Ġ t" in GPT-2's notation, which writes every byte as a printable character
    (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").
    """

    def __init__(self, name: str, merges: list[str]):
        self.merges = merges
        byte_of = byte_of_symbol()
        pairs = [(left, right) for left, right in (line.split(" ") for line in merges)]
        ids = {symbol: index for index, symbol in enumerate(byte_of)}
        for left, right in pairs:
            ids.setdefault(left + right, len(ids))
        pieces = [bytes(byte_of[char] for char in symbol) for symbol in ids]
        super().__init__(name, [*pieces, b""], eos_id=len(pieces))
        self._backend = Backend(models.BPE(vocab=ids, merges=pairs))
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]

    def _details(self) -> dict[str, Any]:
        return {"merges": self.merges}


def byte_of_symbol() -> dict[str, int]:
    """The byte of each of GPT-2's 256 symbols, in the order of their token ids.

    A byte that is a printable Latin-1 character is its own symbol; the others are numbered from U+0100.
    """
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = {symbol: ord(symbol) for symbol in symbols if ord(symbol) < 256}
    other_bytes = sorted(set(range(256)) - set(printable.values()))
    return printable | dict(zip(symbols[len(printable) :], other_bytes, strict=True))
