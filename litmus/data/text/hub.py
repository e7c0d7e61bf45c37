"""Hugging Face datasets: one text column of one split, copied once into the cache as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from litmus.data.cache import build_once, cache_folder, content_hash
from litmus.data.messages import Log, printable, readable_bytes
from litmus.data.text.columns import Columns, column_value
from litmus.data.text.paths import expand_user, files_below, is_folder
from litmus.errors import BadInput, missing_extra, shown
from litmus.files import reading, sha256

PREFIXES = ("hf:", "hf-stream:")
LOCAL_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
BATCH_ROWS = 1000
COLUMN = "text"
"""Column of the local copy."""
ROW_BYTES_OF_TEXT = 8
"""Bytes of rows that are copied for each byte of a message that is wanted: a row is more than its text."""


class HubSource(NamedTuple):
    """A split of a dataset: `name` is OWNER/NAME, OWNER/NAME/CONFIGURATION, or a local file or folder."""

    name: str
    split: str
    column: str | None
    streaming: bool

    @classmethod
    def parse(cls, text: str) -> HubSource:
        """Read `hf:NAME[:SPLIT[:COLUMN]]`, or `hf-stream:...` to stream; SPLIT may hold colons: train[:10%]."""
        prefix, _, rest = text.partition(":")
        name, *more = rest.split(":")
        if not name:
            raise BadInput(f"{text!r} names no dataset; valid: hf:NAME:SPLIT:COLUMN, such as hf:owner/name:train:text")
        column = more.pop() if len(more) > 1 else None
        return cls(name, ":".join(more) or "train", column or None, prefix == "hf-stream")


def local_copy(source: HubSource, sample_bytes: int | None, log: Log) -> Path:
    """The local JSON-lines copy (column `text`) of a split, or of its first `sample_bytes`, made on first use.

    The copy does not change with the dataset on the hub, so that a comparison can be continued later.
    """
    made_of = [*source, sample_bytes, _local_content(source.name, log)]
    key = sha256(json.dumps(made_of).encode())

    def build(folder: Path) -> None:
        written = rows = without = 0
        with (folder / "documents.jsonl").open("w", encoding="utf-8") as file:
            for text in _texts(source, log):
                rows += 1
                if text is None:
                    without += 1
                    continue
                file.write(json.dumps({COLUMN: text}) + "\n")
                written += len(text.encode("utf-8", "replace"))
                if sample_bytes is not None and written >= sample_bytes:
                    break
        if without == rows > 0 or (2 * without > rows and source.column is None):
            raise BadInput(
                f"dataset {printable(source.name)}: {without} of {rows} rows have no text in the column that was read; "
                "name one: hf:NAME:SPLIT:COLUMN"
            )
        log(f"copied {rows - without} rows, {readable_bytes(written)}; {without} rows without text were skipped")

    return build_once(cache_folder() / "hub" / key, build, log) / "documents.jsonl"


def local_rows(source: HubSource, sample_bytes: int | None, log: Log) -> Path:
    """The local JSON-lines copy of a split with all its columns, or of its first `sample_bytes`, made on first use."""
    if source.column is not None:
        raise BadInput(f"hf:{source.name} of threads has no single column; leave out ':{source.column}'")
    key = sha256(json.dumps(["rows", *source, sample_bytes, _local_content(source.name, log)]).encode())

    def build(folder: Path) -> None:
        written = 0
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            for row in chain.from_iterable(_batches(source, log)):
                written += file.write(json.dumps(row, default=str) + "\n")
                if sample_bytes is not None and written >= ROW_BYTES_OF_TEXT * sample_bytes:
                    break

    return build_once(cache_folder() / "hub" / key, build, log) / "rows.jsonl"


def _local_content(name: str, log: Log) -> list[str]:
    """Content hashes of a local dataset, so that it is copied again after a change; empty for one on the hub."""
    path = expand_user(name)
    if path is None or (folder := is_folder(path)) is None:
        return []
    with reading(path):
        files = files_below(path) if folder else [path]
        return [content_hash(file, log) for file in files if file.is_file()]


def _texts(source: HubSource, log: Log) -> Iterator[str | None]:
    """The text of each row, or None."""
    column = None
    for rows in _batches(source, log):
        if column is None:
            column = Columns.of(rows).text_column(source.column, f"dataset {printable(source.name)}")
        for row in rows:
            text = column_value(row, column)
            if not isinstance(text, str | None):
                held = f"column {shown(column)} holds a {type(text).__name__}, not a string"
                raise BadInput(f"dataset {printable(source.name)}: {held}")
            yield text


def _batches(source: HubSource, log: Log) -> Iterator[list[dict[str, Any]]]:
    """The rows of a dataset in batches. All exceptions of the `datasets` library become BadInput."""
    try:
        dataset = _load(source)
        log(f"copying {source.name}, split {source.split}, into the cache")
        for batch in dataset.iter(batch_size=BATCH_ROWS):
            yield [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    except BadInput:
        raise
    except Exception as error:
        reason = printable(next(iter(str(error).splitlines()), type(error).__name__))
        named = f"the dataset {printable(source.name)}, split {printable(source.split)}"
        raise BadInput(f"{named}, could not be read: {reason}") from error


def _load(source: HubSource) -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_extra("datasets", "hf", f"the corpus hf:{source.name}") from error
    path = Path(source.name).expanduser()
    if (folder := is_folder(path)) is False:
        builder = LOCAL_BUILDERS.get(path.suffix)
        if builder is None:
            raise BadInput(f"{path} is no dataset file; valid suffixes: {', '.join(LOCAL_BUILDERS)}")
        return load_dataset(builder, data_files=str(path), split=source.split, streaming=source.streaming)
    if folder:
        return load_dataset(str(path), split=source.split, streaming=source.streaming)
    owner_and_name = "/".join(source.name.split("/")[:2])
    configuration = "/".join(source.name.split("/")[2:]) or None
    return load_dataset(owner_and_name, configuration, split=source.split, streaming=source.streaming)
