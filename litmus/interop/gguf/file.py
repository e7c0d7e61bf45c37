"""A GGUF file: metadata by key, and tensors in floating point.

The format is described in the repository ggml-org/ggml, docs, gguf.md. The package `gguf` dequantizes the tensors. The
header is parsed here: the package's reader takes seconds for the tokens of a vocabulary.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litmus.errors import BadInput, missing_extra, shown
from litmus.files import read_regular_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The formats of `struct` by type number of a metadata value."""
STRING, ARRAY = 8, 9
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Tensor types that torch has; the others are dequantized to fp32."""


@dataclass(frozen=True)
class GgufFile:
    """The content of a GGUF file; the shape of a tensor is that of the matrix, (outputs, inputs)."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_gguf(path: Path) -> GgufFile:
    """Read a GGUF file. BadInput for a damaged one, and for tensor types that cannot be dequantized."""
    try:
        content = read_regular_file(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}; give a GGUF file") from None
    if content[:4] != MAGIC:
        raise BadInput(f"{path} is no GGUF file: it begins with {content[:4]!r}; {MAGIC!r} is valid")
    try:
        return _parse(_Header(content))
    except _Fault as fault:
        raise BadInput(f"{path} is not a valid GGUF file: {fault}") from None


def check_package() -> None:
    """BadInput if the package that dequantizes tensors is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise missing_extra("gguf", "gguf", "reading a GGUF file") from None


class _Fault(Exception):
    """What is wrong with a file."""


class _Header:
    """Reads the header from its beginning, value by value."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.offset = len(MAGIC)

    def take(self, count: int) -> int:
        """The offset of the next `count` bytes, which are passed."""
        if count > len(self.content) - self.offset:
            raise _Fault(f"it ends after {len(self.content):,} bytes, in its header; it is not whole")
        self.offset += count
        return self.offset - count

    def number(self, form: str) -> Any:
        layout = struct.Struct("<" + form)
        found = layout.unpack_from(self.content, self.take(layout.size))[0]
        # The shortest decimal that rounds to the same fp32 number is what was written: 1e-05, not 9.99999974e-06.
        return float(str(np.float32(found))) if form == "f" else found

    def string(self) -> str:
        length = self.number("Q")
        start = self.take(length)
        try:
            return self.content[start : start + length].decode()
        except UnicodeDecodeError:
            raise _Fault(f"the text at byte {start:,} is not UTF-8") from None

    def value(self) -> Any:
        """A metadata value, preceded by its type."""
        kind = self.number("I")
        if kind != ARRAY:
            return self._single(kind)
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            return [self.string() for _ in range(count)]
        dtype = np.dtype("<" + SCALARS[kind]) if kind in SCALARS else None
        if dtype is None:
            raise _Fault(f"it holds an array of type {kind} at byte {self.offset:,}; numbers and strings are valid")
        return np.frombuffer(self.content, dtype, count, self.take(dtype.itemsize * count)).tolist()

    def _single(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind not in SCALARS:
            raise _Fault(f"it holds a value of type {kind} at byte {self.offset:,}; types 0 to 12 are valid")
        return self.number(SCALARS[kind])


def _parse(header: _Header) -> GgufFile:
    if (version := header.number("I")) not in VERSIONS:
        raise _Fault(f"its version is {version}; {' and '.join(map(str, VERSIONS))} are valid, in little-endian order")
    n_tensors, n_keys = header.number("Q"), header.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        if (key := header.string()) in metadata:
            raise _Fault(f"its key {shown(key)} occurs twice")
        metadata[key] = header.value()
    places: dict[str, tuple[list[int], int, int]] = {}
    for _ in range(n_tensors):
        if (name := header.string()) in places:
            raise _Fault(f"its tensor {shown(name)} occurs twice")
        if not 1 <= (dimensions := header.number("I")) <= MAX_DIMENSIONS:
            raise _Fault(f"its tensor {shown(name)} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are valid")
        shape = [header.number("Q") for _ in range(dimensions)]
        places[name] = shape[::-1], header.number("I"), header.number("Q")
    alignment = metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _Fault(f"{ALIGNMENT} = {shown(alignment)}; a power of two is valid")
    start = -(-header.offset // alignment) * alignment
    tensors = {
        name: _tensor(header.content, name, shape, kind, start + offset)
        for name, (shape, kind, offset) in places.items()
    }
    return GgufFile(metadata, tensors)


def _tensor(content: bytes, name: str, shape: list[int], kind: int, start: int) -> Tensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    try:
        coding = GGMLQuantizationType(kind)
    except ValueError:
        raise _Fault(f"its tensor {shown(name)} has type {kind}, which the package gguf does not know") from None
    block, block_bytes = GGML_QUANT_SIZES[coding]
    if shape[-1] % block:
        raise _Fault(f"its tensor {shown(name)} has rows of {shape[-1]}, which are not blocks of {block}")
    row_bytes = shape[-1] // block * block_bytes
    count = math.prod(shape[:-1]) * row_bytes
    if not 0 < count <= len(content) - start:
        raise _Fault(f"it ends after {len(content):,} bytes, before its tensor {shown(name)} does; it is not whole")
    coded = np.frombuffer(content, np.uint8, count, start).reshape(*shape[:-1], row_bytes)
    if dtype := FLOATS.get(coding.name):
        return torch.from_numpy(coded.copy()).view(dtype)
    try:
        with np.errstate(all="ignore"):  # weights that are not finite are refused by name
            return torch.from_numpy(dequantize(coded, coding))
    except NotImplementedError:
        raise _Fault(f"its tensor {shown(name)} is {coding.name}, which cannot be dequantized") from None
