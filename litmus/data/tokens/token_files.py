"""Token files: each split of a corpus as one memory-mapped stream `<end> document <end> document ... <end>`.

A tokenizer with a begin token of its own makes it `<begin> document <end> <begin> document ... <end>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np

from litmus.data.json_files import read_json
from litmus.data.messages import Log, printable, progress, readable_bytes
from litmus.data.text.corpora import Corpus
from litmus.data.text.documents import Piece, SkippedRows, read_pieces, take_bytes
from litmus.data.tokens.make_tokenizer import load_tokenizer, make_tokenizer
from litmus.data.tokens.splits import decide_split
from litmus.data.tokens.tokenizer import FILE_NAME, Tokenizer
from litmus.errors import BadInput
from litmus.files import sha256

SPLITS = ("train", "held_out")
# Increment when the file layout, the reading or the splitting changes.
FORMAT = 2
ENCODE_BATCH_BYTES = 4_000_000
ENCODE_BATCH_PIECES = 4096


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of threads, one after the other: token ids and which of them are trained on, both of shape (tokens,).

    starts: (W + 1,) where each window begins, and the end of the last. threads: (W,) the thread of each.
    """

    tokens: np.ndarray
    scored: np.ndarray
    starts: np.ndarray
    threads: np.ndarray

    def __len__(self) -> int:
        return len(self.threads)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(W,) the places that each window takes in a batch: all its tokens but the last, which is only a target."""
        return np.diff(self.starts) - 1

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a window, and which of them are trained on."""
        place = slice(int(self.starts[number]), int(self.starts[number + 1]))
        return self.tokens[place], self.scored[place]


class Examples(Protocol):
    """Examples that are generated from a seed. length: tokens of one in the training. test_lengths: in the test."""

    @property
    def length(self) -> int: ...

    @property
    def test_lengths(self) -> tuple[int, ...]: ...

    def batch(
        self, seed: int, split: Literal["train", "test"], number: int, count: int, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number` of a split: inputs and targets (count, T), of which -100 is not scored."""


@dataclass(frozen=True, eq=False)
class TokenData:
    """A prepared corpus: two token streams, the tokenizer and their provenance.

    `train` and `held_out` are memory-mapped uint16 or uint32 arrays of shape (tokens,). `fingerprint` is the sha256 of
    the token files and of the settings that made them. `provenance` is JSON-serializable. Threads have `windows` by
    split, whose tokens the streams then are, and the source of their `chat_template`. Of `examples`
    the streams are a sample.
    """

    train: np.ndarray
    held_out: np.ndarray
    tokenizer: Tokenizer
    fingerprint: str
    provenance: dict[str, Any]
    windows: Mapping[str, Windows] | None = None
    chat_template: str | None = None
    examples: Examples | None = None

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int64: UTF-8 bytes of each token id; 0 for the end token."""
        return self.tokenizer.token_bytes

    def text_bytes(self, tokens: np.ndarray, before: np.ndarray) -> np.ndarray:
        """UTF-8 bytes of text per token, given the preceding tokens; a space that the tokenizer added before a document
        does not count."""
        counted = self.token_bytes[tokens]
        if self.tokenizer.adds_prefix_space:
            spaced = np.array([piece[:1] == b" " for piece in self.tokenizer.pieces])
            counted = counted - ((before == self.tokenizer.prefix[-1]) & spaced[tokens])
        return counted


def write_token_files(
    folder: Path,
    corpus: Corpus,
    *,
    tokenizer: str,
    held_out: float,
    sample_bytes: int | None,
    key: str,
    log: Log,
) -> None:
    """Read, split and tokenize `corpus`; writes train.bin, held_out.bin, tokenizer.json and provenance.json."""

    skipped = SkippedRows()

    def pieces(skipped: SkippedRows | None = None) -> Iterator[Piece]:
        return take_bytes(read_pieces(corpus.files, skipped), sample_bytes)

    def train_text() -> Iterator[str]:
        return (piece.text.decode() for split, piece in plan.place(pieces()) if split == "train")

    name = printable(corpus.name)
    log(f"reading {name} ({len(corpus.files)} files)")
    plan = decide_split(pieces(skipped), held_out)
    if plan.bytes == 0:
        raise BadInput(f"the corpus {name!r} is empty: its {len(corpus.files)} files contain no text")
    if plan.blank:
        raise BadInput(f"the corpus {name!r} contains only white space ({readable_bytes(plan.bytes)})")
    made = make_tokenizer(tokenizer, train_text, round(plan.bytes * (1 - held_out)), log)
    made.save(folder)
    with (folder / "train.bin").open("wb") as train_file, (folder / "held_out.bin").open("wb") as held_out_file:
        streams = {"train": _Stream(train_file, made), "held_out": _Stream(held_out_file, made)}
        with progress(f"tokenizing {name}", plan.bytes, log) as advance:
            for batch in _batches(plan.place(pieces())):
                texts = [piece.text.decode() for _, piece in batch]
                encoded = made.encode_batch(texts, [streams[split].continues_document(piece) for split, piece in batch])
                for (split, piece), ids in zip(batch, encoded, strict=True):
                    streams[split].add(piece, ids)
                advance(sum(len(piece.text) for _, piece in batch))
        for split, stream in streams.items():
            if stream.documents == 0:
                share = f"{held_out:g} of its {readable_bytes(plan.bytes)} held out"
                raise BadInput(f"the corpus {name!r} is too short: with {share} the {split} split is empty")
            stream.finish()
    provenance = {
        "tokenizer": made.name,
        "vocab_size": made.vocab_size,
        "held_out_share": held_out,
        "sample_bytes": sample_bytes,
        "split": plan.rule,
        "documents": {split: stream.documents for split, stream in streams.items()},
        "bytes": {split: stream.bytes for split, stream in streams.items()},
        "tokens": {split: stream.tokens for split, stream in streams.items()},
        "bad_utf8_replaced": plan.bad_utf8,
        "rows_without_text": skipped.rows,
        "columns": sorted({file.column for file in corpus.files if file.column is not None}),
        "sha256": {split: stream.hash.hexdigest() for split, stream in streams.items()},
        "tokenizer_sha256": sha256((folder / FILE_NAME).read_bytes()),
        "key": key,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2))


def open_token_files(folder: Path, corpus: Corpus) -> TokenData:
    """Memory-map the files that `write_token_files` wrote; BadInput if they are damaged."""
    try:
        provenance = read_json(folder / "provenance.json")
        tokenizer = load_tokenizer(folder)
        mapped = {split: np.memmap(folder / f"{split}.bin", token_dtype(tokenizer), mode="r") for split in SPLITS}
        lengths = {split: len(tokens) for split, tokens in mapped.items()}
        expected, made_of = provenance["tokens"], [provenance[key] for key in ("key", "sha256", "tokenizer_sha256")]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"the token files in {folder} are damaged ({error}); delete that folder") from error
    if lengths != expected:
        raise BadInput(f"the token files in {folder} hold {lengths} tokens, not {expected}; delete that folder")
    fingerprint = sha256(json.dumps(made_of).encode())
    described = {"corpus": corpus.name, "source": corpus.source, **provenance}
    return TokenData(mapped["train"], mapped["held_out"], tokenizer, fingerprint, described)


class _Stream:
    """One split being written, with its counts and its sha256."""

    def __init__(self, file: BinaryIO, tokenizer: Tokenizer):
        self.documents = self.bytes = self.tokens = 0
        self.hash = hashlib.sha256()
        self._file = file
        self._dtype = token_dtype(tokenizer)
        self._tokenizer = tokenizer
        self._document = self._announced = -1

    def continues_document(self, piece: Piece) -> bool:
        """Whether a piece is not the first of its document in this stream; to be called in order."""
        before, self._announced = self._announced, piece.document
        return before == piece.document

    def add(self, piece: Piece, ids: list[int]) -> None:
        if piece.document != self._document:
            self._document = piece.document
            self._write(self._tokenizer.separator if self.documents else self._tokenizer.prefix)
            self.documents += 1
        self.bytes += len(piece.text)
        self._write(ids)

    def finish(self) -> None:
        self._write([self._tokenizer.eos_id])

    def _write(self, ids: Sequence[int]) -> None:
        raw = np.array(ids, dtype=self._dtype).tobytes()
        self._file.write(raw)
        self.hash.update(raw)
        self.tokens += len(ids)


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """The number format of token files."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def _batches(placed: Iterable[tuple[str, Piece]]) -> Iterator[list[tuple[str, Piece]]]:
    batch: list[tuple[str, Piece]] = []
    size = 0
    for split, piece in placed:
        batch.append((split, piece))
        size += len(piece.text)
        if size >= ENCODE_BATCH_BYTES or len(batch) >= ENCODE_BATCH_PIECES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
