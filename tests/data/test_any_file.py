"""Whatever a file holds: its documents, or one sentence."""

import contextlib
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litmus.data.text.documents import TextFile, read_pieces
from litmus.errors import BadInput

FORMS = {"text": ".txt", "jsonl": ".jsonl", "json": ".json", "csv": ".csv", "parquet": ".parquet"}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
NAMES = st.sampled_from(["text", "content", "id", "messages", "row", "row.text", "", "\n", "a" * 300]) | st.text(
    max_size=4
)
ROW_FORMATS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4) | VALUES, max_size=6)
COLUMNS = st.none() | NAMES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


def read(path, form, column=None):
    """Read a file to its end; BadInput is fine if it is one sentence that names the file."""
    try:
        for piece in read_pieces([TextFile(path, form, column, column is not None)]):
            piece.text.decode()
            assert piece.text
    except BadInput as complaint:
        assert path.name in str(complaint)
        assert str(complaint).isprintable()


@given(st.sampled_from(list(FORMS)), st.sampled_from(["", ".gz"]), st.binary(max_size=300), COLUMNS)
def test_random_bytes_are_documents_or_one_sentence(folder, form, compressed, content, column):
    path = folder / f"random{FORMS[form]}{compressed}"
    path.write_bytes(content)
    read(path, form, column)


@given(ROW_FORMATS, st.booleans(), COLUMNS)
def test_json_of_any_shape_is_documents_or_one_sentence(folder, rows, as_array, column):
    path = folder / ("rows.json" if as_array else "rows.jsonl")
    path.write_text(json.dumps(rows) if as_array else "\n".join(map(json.dumps, rows)))
    read(path, path.suffix[1:], column)


@given(st.lists(st.lists(st.text(max_size=6), max_size=4), max_size=6), st.sampled_from(",;\t|"), COLUMNS)
def test_cells_of_any_shape_are_documents_or_one_sentence(folder, rows, delimiter, column):
    path = folder / "cells.csv"
    path.write_text("\n".join(delimiter.join(row) for row in rows), errors="surrogateescape")
    read(path, "csv", column)


@given(st.data())
def test_a_gzip_file_damaged_anywhere_is_documents_or_one_sentence(folder, data):
    whole = gzip.compress(b"".join(b'{"text": "row %d"}\n' % i for i in range(500)), mtime=0)
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "rows.jsonl.gz"
    path.write_bytes(damaged)
    read(path, "jsonl")


@given(st.data())
def test_a_zstd_file_cut_anywhere_is_one_sentence(folder, data):
    zstandard = pytest.importorskip("zstandard", reason="zstandard (extra 'data') is not installed")
    whole = zstandard.compress(b"".join(b"line %d\n" % i for i in range(500)))
    path = folder / "text.txt.zst"
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole) - 1))])
    with pytest.raises(BadInput, match=r"text\.txt\.zst is a damaged zstd file"):
        list(read_pieces([TextFile(path, "text")]))


@given(st.data())
def test_a_parquet_file_cut_anywhere_is_one_sentence(folder, data):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra 'data') is not installed")
    from pyarrow import parquet

    path = folder / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": [f"row {i}" for i in range(50)]}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BadInput, match=r"rows\.parquet is not a readable Parquet file"):
        list(read_pieces([TextFile(path, "parquet")]))


@pytest.mark.parametrize("bits", [*range(0, 8)])
def test_a_parquet_file_with_a_wrong_byte_is_documents_or_one_sentence(folder, bits):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra 'data') is not installed")
    from pyarrow import parquet

    path = folder / "flipped.parquet"
    table = pyarrow.table({"text": [f"row {i}" for i in range(50)]})
    parquet.write_table(table, path, write_page_checksum=True)
    whole = path.read_bytes()
    for place in range(4, len(whole) - 8, 37):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bits
        path.write_bytes(damaged)
        with contextlib.suppress(BadInput):
            for piece in read_pieces([TextFile(path, "parquet")]):
                piece.text.decode()
