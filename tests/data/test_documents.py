import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litmus.data.text import documents
from litmus.data.text.documents import Piece, TextFile, read_pieces, take_bytes
from litmus.data.text.files import format_of
from litmus.errors import BadInput


def texts(*files):
    """The documents of `files`, each joined from its pieces."""
    found = {}
    for piece in read_pieces(files):
        found[piece.document] = found.get(piece.document, b"") + piece.text
    assert list(found) == list(range(len(found)))
    return [text.decode() for text in found.values()]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *[
            ("a.txt", "text"),
            ("a.MD.gz", "text"),
            ("v1.2.py", "text"),
            ("a.jsonl.gz", "jsonl"),
            ("a.parquet", "parquet"),
        ],
        *[("a.parquet.gz", None), ("a.tar.gz", None), ("a.gz", None), ("txt", None), ("a.json", None)],
    ],
)
def test_a_suffix_promises_a_format(tmp_path, name, form):
    assert format_of(tmp_path / name) == form


def test_line_endings_stay_as_they_are_and_a_byte_order_mark_is_no_text(tmp_path):
    content = "one\r\ntwo\rthree \ufeff\n"
    (tmp_path / "a.txt").write_bytes(content.encode("utf-8-sig"))
    assert texts(TextFile(tmp_path / "a.txt", "text")) == [content]


def test_a_gzipped_file_reads_like_the_file(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("größer\n".encode()))
    assert texts(TextFile(tmp_path / "a.txt.gz", "text")) == ["größer\n"]


def test_empty_files_and_empty_rows_are_no_documents(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n\n{"text": ""}\n{"text": null}\n{"other": 1}\n{"text": "y"}')
    assert texts(TextFile(tmp_path / "a.txt", "text"), TextFile(tmp_path / "b.jsonl", "jsonl")) == ["x", "y"]


@given(st.lists(st.text(max_size=60), max_size=5), st.integers(5, 9))
def test_pieces_joined_give_back_every_document_and_each_is_whole_utf8(tmp_path_factory, contents, size):
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in contents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "MAX_PIECE_BYTES", size)
        pieces = list(read_pieces([TextFile(folder / "a.jsonl", "jsonl")]))
        found = texts(TextFile(folder / "a.jsonl", "jsonl"))
    assert found == [text for text in contents if text]
    for piece in pieces:
        piece.text.decode()
        assert 0 < len(piece.text) < 2 * size
        assert piece.bad == 0


def test_a_long_document_is_cut_after_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_PIECE_BYTES", 8)
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\nfour")
    pieces = [piece.text for piece in read_pieces([TextFile(tmp_path / "a.txt", "text")])]
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert len(pieces) > 1


@pytest.mark.parametrize("size", [5, 1000])
def test_invalid_utf8_is_replaced_and_counted_but_a_genuine_replacement_character_is_not(tmp_path, monkeypatch, size):
    monkeypatch.setattr(documents, "MAX_PIECE_BYTES", size)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 ok \xff\n" + "\ufffd genuine".encode())
    pieces = list(read_pieces([TextFile(tmp_path / "a.txt", "text")]))
    assert b"".join(piece.text for piece in pieces).decode() == "caf\ufffd ok \ufffd\n\ufffd genuine"
    assert sum(piece.bad for piece in pieces) == 2


def test_half_a_surrogate_pair_in_json_is_replaced_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\\ud800b \\ud83d\\ude00"}\n{"text": "c\xff"}')
    pieces = list(read_pieces([TextFile(tmp_path / "a.jsonl", "jsonl")]))
    assert [piece.text.decode() for piece in pieces] == ["a\ufffdb \N{GRINNING FACE}", "c\ufffd"]
    assert [piece.bad for piece in pieces] == [1, 1]


def test_the_only_column_of_strings_holds_the_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 3, "body": "x"}')
    assert texts(TextFile(tmp_path / "a.jsonl", "jsonl")) == ["x"]


def test_a_named_column_is_read_instead_of_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "no", "body": "yes"}')
    assert texts(TextFile(tmp_path / "a.jsonl", "jsonl", "body")) == ["yes"]


@pytest.mark.parametrize(
    ("content", "column", "complaint"),
    [
        ('{"a": "x", "b": "y"}', None, r"the columns: a \(str\), b \(str\)"),
        ('{"mesage": "x"}', "message", "did you mean 'mesage'"),
        ('{"text": "x"}\n{"text": 3}', None, "line 2: column 'text' holds a int"),
        ('{"text": "x"}\n{"text": ', None, "line 2 is not JSON"),
        ('["x"]', None, "line 1 is a JSON list"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path, content, column, complaint):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(BadInput, match=complaint):
        texts(TextFile(tmp_path / "a.jsonl", "jsonl", column))


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_a_binary_file_is_refused_by_name(tmp_path, form):
    (tmp_path / "a.bin").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(BadInput, match=r"a\.bin contains NUL bytes"):
        texts(TextFile(tmp_path / "a.bin", form))


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"hello " * 1000)[:-20], gzip.compress(b"")[:9]],
    ids=["not gzip", "cut short", "without its header"],  # a compressed stream holds the time: no name for a test
)
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.txt.gz").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.txt\.gz is a damaged gzip file"):
        texts(TextFile(tmp_path / "a.txt.gz", "text"))


def test_a_parquet_column_is_read_row_by_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra 'data') is not installed")
    from pyarrow import parquet

    rows = {"text": ["größer", None, "", "two"], "n": [1, 2, 3, 4]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    assert texts(TextFile(tmp_path / "a.parquet", "parquet")) == ["größer", "two"]
    with pytest.raises(BadInput, match="column 'n' holds int64, not strings"):
        texts(TextFile(tmp_path / "a.parquet", "parquet", "n"))


def test_a_damaged_parquet_file_is_refused_by_name(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow (extra 'data') is not installed")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadInput, match=r"a\.parquet is not a readable Parquet file"):
        texts(TextFile(tmp_path / "a.parquet", "parquet"))


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 40))
def test_a_sample_is_the_first_bytes_cut_between_characters(contents, limit):
    whole = "".join(contents)
    pieces = [Piece(i, text.encode(), 0) for i, text in enumerate(contents)]
    sample = b"".join(piece.text for piece in take_bytes(pieces, limit)).decode()
    assert whole.startswith(sample)
    following = whole[len(sample) : len(sample) + 1]
    assert len(sample.encode()) <= limit
    assert not following or len((sample + following).encode()) > limit
