"""Formats: what the name of a file promises about its content."""

from __future__ import annotations

from pathlib import Path

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
