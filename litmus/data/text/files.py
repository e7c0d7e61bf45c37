"""Opening a file of a corpus: decompressed and without its byte order mark; what is no UTF-8 text is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from litmus.data.messages import printable
from litmus.data.text.paths import is_folder
from litmus.errors import BadInput, missing_extra

FORMATS = {".txt": "text", ".md": "text", ".py": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""What is read in a folder."""
NAMED_ONLY = {".json": "json", ".csv": "csv", ".tsv": "csv"}
"""What is read when its file is named: in a folder of text these are settings and figures more often than text."""
COMPRESSED = (".gz", ".zst")
ROWS = {"jsonl", "json", "csv", "parquet"}
"""The formats of which each row is a document."""

_COMPRESSION = "compressed in a way that is not read here; decompress it, or use gzip or zstd"
_ARCHIVE = "an archive; unpack it and name the folder"
_DOCUMENT = "no plain text; save its text as .txt, or as rows of JSON lines"
_MEDIA = "no text"
_TABLE = "in a format that is not read here; save its rows as JSON lines, CSV or Parquet"
_UNREADABLE = {
    _COMPRESSION: "bz2 xz lzma lz4 br z lzo",
    _ARCHIVE: "zip tar tgz tbz2 txz 7z rar jar whl",
    _DOCUMENT: "pdf doc docx odt rtf epub mobi ppt pptx ps djvu ipynb",
    _MEDIA: "png jpg jpeg gif webp bmp tif tiff svg ico heic mp3 wav flac ogg m4a mp4 mkv mov avi webm",
    _TABLE: "arrow feather orc avro xls xlsx ods sqlite sqlite3 db npy npz h5 hdf5 pkl pt pth safetensors gguf",
}
WHY_UNREADABLE = {f".{suffix}": why for why, suffixes in _UNREADABLE.items() for suffix in suffixes.split()}
"""Suffixes of files that are never read as text, and what such a file is."""


def format_of(path: Path) -> str | None:
    """The format that a suffix promises in a folder, compression aside; None if it is not one of FORMATS."""
    return FORMATS.get(_suffix(path))


def format_of_named(path: Path) -> str:
    """The format of a file that the user named: as its suffix promises, else text."""
    return (FORMATS | NAMED_ONLY).get(_suffix(path), "text")


def compression_of(path: Path) -> str:
    """The suffix of COMPRESSED by which a file is decompressed, or nothing."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSED else ""


def why_unreadable(path: Path) -> str | None:
    """Why a file of this name is not read, or None if it may be."""
    last, inner = path.suffix.lower(), _suffix(path)
    if last in COMPRESSED and Path(path.stem).suffix.lower() == ".parquet":
        return "a Parquet file inside another compression; decompress it"
    return WHY_UNREADABLE.get(last) or WHY_UNREADABLE.get(inner)


def _suffix(path: Path) -> str:
    """The last suffix in small letters, that before .gz or .zst if it ends so (never .parquet, which is not compressed
    as a whole)."""
    if path.suffix.lower() not in COMPRESSED:
        return path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return "" if inner == ".parquet" else inner


READ_BYTES = 1 << 18
# One step of zstd may unpack a block of 128 KiB for every few bytes: little is handed over at once.
COMPRESSED_READ_BYTES = 4096
LONGEST_ZSTD_WINDOW = 1 << 31
UTF8_MARK = b"\xef\xbb\xbf"
OTHER_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file's text, for reading once from the beginning.

    BadInput, here or while it is read, for what is no file, cannot be read, is damaged, or holds NUL bytes.
    """
    check_readable(path)
    with reading(path), path.open("rb") as file:
        stream = io.BufferedReader(_Checked(path, _chunks(path, file)), READ_BYTES)
        if stream.peek(len(UTF8_MARK)).startswith(UTF8_MARK):
            stream.read(len(UTF8_MARK))
        yield stream


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a file that cannot be read into one sentence."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{printable(path)} cannot be read: {error.strerror or error}") from error


def check_readable(path: Path) -> None:
    """Raise BadInput unless `path` is a file whose name does not say that it is no text."""
    if is_folder(path) is not False:
        raise BadInput(f"{printable(path)} is no file")
    if why := why_unreadable(path):
        raise BadInput(f"{printable(path)} is {why}")


class _Checked(io.RawIOBase):
    """Chunks of bytes as one stream; BadInput at the first that is no UTF-8 text."""

    def __init__(self, path: Path, chunks: Iterator[bytes]):
        self._path = path
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # any writable buffer, as in RawIOBase
        room = memoryview(buffer)
        filled = 0
        while filled < len(room):
            if not self._rest:
                with reading(self._path):
                    chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._check(chunk)
                self._rest = memoryview(chunk)
            taken = min(len(room) - filled, len(self._rest))
            room[filled : filled + taken] = self._rest[:taken]
            self._rest = self._rest[taken:]
            filled += taken
        return filled

    def _check(self, chunk: bytes) -> None:
        if self._position == 0 and (mark := next((mark for mark in OTHER_MARKS if chunk.startswith(mark)), None)):
            raise BadInput(f"{printable(self._path)} is {OTHER_MARKS[mark]}, not UTF-8; save it as UTF-8")
        if (at := chunk.find(b"\0")) >= 0:
            found = f"contains NUL bytes (the first at byte {self._position + at})"
            raise BadInput(f"{printable(self._path)} {found}: it is binary (or UTF-16), not UTF-8 text")
        self._position += len(chunk)


def _chunks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    compression = compression_of(path)
    if compression == ".gz":
        return _gunzipped(path, file)
    if compression == ".zst":
        return _unzstd(path, file)
    return iter(lambda: file.read(READ_BYTES), b"")


def _gunzipped(path: Path, file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as stream:
        try:
            while chunk := stream.read(READ_BYTES):
                yield chunk
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadInput(f"{printable(path)} is a damaged gzip file: {error}") from error


def _unzstd(path: Path, file: BinaryIO) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise missing_extra("zstandard", "data", f"reading {printable(path)}") from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=LONGEST_ZSTD_WINDOW)
    frame = None
    try:
        while compressed := file.read(COMPRESSED_READ_BYTES):
            while compressed:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(compressed)
                compressed, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    except (zstandard.ZstdError, MemoryError) as error:
        raise BadInput(f"{printable(path)} is a damaged zstd file: {error}") from error
    if frame is not None:
        raise BadInput(f"{printable(path)} is a damaged zstd file: it ends in the middle of a frame")


def version(path: Path) -> tuple[int, int, int]:
    """What changes whenever a file does: which file it is, its size, and when it was written."""
    with reading(path):
        status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
