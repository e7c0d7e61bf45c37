"""Files of a corpus: their formats by suffix, and reading them decompressed, without byte order mark, as UTF-8 text."""

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
from litmus.files import reading

FORMATS = {".txt": "text", ".md": "text", ".py": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""Formats by suffix, for files in a folder."""
FORMATS_IF_NAMED = {".json": "json", ".csv": "csv", ".tsv": "csv"}
"""Formats read only if the file is named; in a folder they are more often settings or measurements than text."""
COMPRESSION_SUFFIXES = (".gz", ".zst")
ROW_FORMATS = {"jsonl", "json", "csv", "parquet"}
"""Formats with one document per row."""

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
"""Suffixes that are never read as text, with the reason."""


def format_of(path: Path) -> str | None:
    """The format of a file in a folder by its suffix, ignoring compression; None if it is not read."""
    return FORMATS.get(_suffix(path))


def format_of_named(path: Path) -> str:
    """The format of a file that the user named: by its suffix, else text."""
    return (FORMATS | FORMATS_IF_NAMED).get(_suffix(path), "text")


def compression_of(path: Path) -> str:
    """The compression suffix of a file, or ""."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSION_SUFFIXES else ""


def why_unreadable(path: Path) -> str | None:
    """Why a file of this name is not read; None if it is."""
    last, inner = path.suffix.lower(), _suffix(path)
    if last in COMPRESSION_SUFFIXES and Path(path.stem).suffix.lower() == ".parquet":
        return "a Parquet file inside another compression; decompress it"
    return WHY_UNREADABLE.get(last) or WHY_UNREADABLE.get(inner)


def _suffix(path: Path) -> str:
    """The last suffix in lower case, ignoring .gz and .zst, but not after .parquet, which is not compressed whole."""
    if path.suffix.lower() not in COMPRESSION_SUFFIXES:
        return path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return "" if inner == ".parquet" else inner


READ_BYTES = 1 << 18
# zstd may unpack a block of 128 KiB from every few bytes, so only few bytes are decompressed at a time.
COMPRESSED_READ_BYTES = 4096
MAX_ZSTD_WINDOW_BYTES = 1 << 31
UTF8_BOM = b"\xef\xbb\xbf"
OTHER_BOMS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A stream of a file's text, to be read once.

    BadInput, on opening or while reading, for anything that is not a readable, undamaged file without NUL bytes.
    """
    check_readable(path)
    with reading(path), path.open("rb") as file:
        stream = io.BufferedReader(_Utf8Stream(path, _chunks(path, file)), READ_BYTES)
        if stream.peek(len(UTF8_BOM)).startswith(UTF8_BOM):
            stream.read(len(UTF8_BOM))
        yield stream


def check_readable(path: Path) -> None:
    """Raise BadInput unless `path` is a file and its suffix may be text."""
    if is_folder(path) is not False:
        raise BadInput(f"{printable(path)} is no file")
    if why := why_unreadable(path):
        raise BadInput(f"{printable(path)} is {why}")


class _Utf8Stream(io.RawIOBase):
    """Chunks of bytes as one stream; BadInput at a chunk that is UTF-16, UTF-32 or binary."""

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
        if self._position == 0 and (mark := next((mark for mark in OTHER_BOMS if chunk.startswith(mark)), None)):
            raise BadInput(f"{printable(self._path)} is {OTHER_BOMS[mark]}, not UTF-8; save it as UTF-8")
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
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
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
    """Inode, size and modification time, which change whenever the file does."""
    with reading(path):
        status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
