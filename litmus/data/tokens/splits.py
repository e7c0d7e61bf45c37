"""The train/held-out split, decided in one pass with two bytes of memory per document."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from litmus.data.text.documents import Piece, character_boundary
from litmus.errors import BadInput

MIN_DOCUMENTS = 10
BINS = 1 << 16


@dataclass(frozen=True)
class Split:
    """The split of a corpus into train and held_out, and counts from one pass over it.

    blank: whether the text is all white space. By document: `bins[d]` is the bin of document d and `held[bin]` whether
    a bin is held out. Otherwise `held` is None and everything from byte `cut` on is held out.
    """

    documents: int
    bytes: int
    blank: bool
    bad_utf8: int
    bins: array[int]
    held: np.ndarray | None
    cut: int

    @property
    def rule(self) -> str:
        """The rule of the split, for display."""
        return "contiguous" if self.held is None else "by document"

    def place(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, Piece]]:
        """Assign every piece to "train" or "held_out"; a contiguous cut splits one piece in two."""
        if self.held is not None:
            for piece in pieces:
                if piece.document >= len(self.bins):
                    raise BadInput("the corpus changed while it was read: it has more documents than before")
                yield ("held_out" if self.held[self.bins[piece.document]] else "train"), piece
            return
        position = 0
        for piece in pieces:
            cut = character_boundary(piece.text, min(max(self.cut - position, 0), len(piece.text)))
            position += len(piece.text)
            if cut > 0:
                yield "train", piece._replace(text=piece.text[:cut])
            if cut < len(piece.text):
                yield "held_out", piece._replace(text=piece.text[cut:])


def decide_split(pieces: Iterable[Piece], held_out: float) -> Split:
    """Hold out the fraction `held_out` of a corpus's bytes.

    Documents are hashed (sha256) into 65536 bins, and bins are held out in order until the fraction is reached. So
    duplicates are never on both sides, and a document keeps its side, except for a few near the threshold, when the
    corpus grows or is sampled. With fewer than ten documents, or if the result is far from the fraction because
    documents are too large or too similar, the last `held_out` of the bytes are held out instead.
    """
    bins: array[int] = array("H")
    bytes_in_bin = np.zeros(BINS, dtype=np.int64)
    bad, blank = 0, True
    for size, digest, bad_here, blank_here in _measured(pieces):
        place = int.from_bytes(digest[:2])
        bins.append(place)
        bytes_in_bin[place] += size
        bad += bad_here
        blank = blank and blank_here
    total = int(bytes_in_bin.sum())
    target = held_out * total
    held = np.zeros(BINS, dtype=bool)
    share = 0
    for place, size in enumerate(bytes_in_bin.tolist()):
        if size and share + size / 2 < target:
            held[place] = True
            share += size
    near = share >= target / 2 and total - share >= (total - target) / 2
    by_document = len(bins) >= MIN_DOCUMENTS and near
    return Split(len(bins), total, blank, bad, bins, held if by_document else None, round(total - target))


def _measured(pieces: Iterable[Piece]) -> Iterator[tuple[int, bytes, int, bool]]:
    """Per document: size in bytes, sha256, number of replaced sequences, and whether it is all white space."""
    document, size, bad, blank, digest = -1, 0, 0, True, hashlib.sha256()
    for piece in pieces:
        if piece.document != document:
            if size:
                yield size, digest.digest(), bad, blank
            document, size, bad, blank, digest = piece.document, 0, 0, True, hashlib.sha256()
        size += len(piece.text)
        bad += piece.bad
        blank = blank and piece.text.isspace()
        digest.update(piece.text)
    if size:
        yield size, digest.digest(), bad, blank
