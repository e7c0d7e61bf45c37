"""Which column holds the documents, and what is said where none can be told."""

import gzip
import json
import sys

import pytest

from litmus.data import DataSettings, prepare
from litmus.data.text.documents import SkippedRows, TextFile, read_pieces
from litmus.data.text.files import READ_BYTES
from litmus.errors import BadInput

SENTENCE = "a document with some words in it, number {}"


def write_rows(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def texts(path, form="jsonl", column=None):
    pieces = read_pieces([TextFile(path, form, column, column is not None)])
    return [piece.text.decode() for piece in pieces]


def prepared(corpus):
    lines = []
    data = prepare(DataSettings(corpus=str(corpus), tokenizer="bytes"), log=lines.append)
    return data, lines


@pytest.mark.parametrize("first", [{"id": "a", "text": None}, {"id": "a"}])
def test_a_first_row_without_text_does_not_make_the_ids_the_text(tmp_path, first):
    rows = [first, *({"id": str(i), "text": SENTENCE.format(i)} for i in range(1, 30))]
    data, lines = prepared(write_rows(tmp_path / "a.jsonl", rows))
    assert sum(data.provenance["documents"].values()) == 29
    assert data.provenance["columns"] == ["text"]
    assert data.provenance["rows_without_text"] == 1
    assert any("1 rows without text in the column 'text' were skipped" in line for line in lines)


def test_rows_without_text_are_counted_from_the_cache_too(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"text": None}, *({"text": SENTENCE.format(i)} for i in range(30))])
    prepared(tmp_path / "a.jsonl")
    assert "1 rows without text" in prepared(tmp_path / "a.jsonl")[1][-1]


@pytest.mark.parametrize("missing", [{"txet": "misspelt"}, {"text": None}])
def test_a_file_of_which_most_rows_lack_the_text_is_refused(tmp_path, missing):
    write_rows(tmp_path / "a.jsonl", [*({"text": SENTENCE.format(i)} for i in range(3)), *[missing] * 27])
    with pytest.raises(BadInput, match=r"27 of 30 rows have no text in the column 'text'"):
        prepared(tmp_path / "a.jsonl")


def test_most_rows_may_lack_a_column_that_the_user_named(tmp_path):
    write_rows(tmp_path / "a.jsonl", [*({"text": SENTENCE.format(i)} for i in range(13)), *[{"txet": "x"}] * 27])
    data, lines = prepared(f"{tmp_path}/a.jsonl:text")
    assert sum(data.provenance["documents"].values()) == 13
    assert any("27 rows without text" in line for line in lines)


@pytest.mark.parametrize("name", ["content", "Text", "body"])
def test_a_column_is_chosen_by_name_or_as_the_only_one_that_can_be(tmp_path, name):
    assert texts(write_rows(tmp_path / "a.jsonl", [{"n": 1, name: "x"}, {"n": None, name: "y"}][:1])) == ["x"]


def test_text_is_preferred_to_content(tmp_path):
    assert texts(write_rows(tmp_path / "a.jsonl", [{"content": "no", "text": "yes"}])) == ["yes"]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"id": "a", "n": 3}, r"id \(str\), n \(int\)"),
        ({"docId": "a"}, r"docId \(str\)"),
        ({"body": "a", "summary": "b"}, r"body \(str\), summary \(str\)"),
        ({"body": "a", "other": None}, r"other \(null\)"),
        ({"body": "a", "parts": ["b"]}, r"parts \(list\)"),
        ({"label": "a", "row": {"text": "b"}}, r"row\.text \(str\)"),
        ({"text": 3, "body": "a"}, r"text \(int\), body \(str\)"),
        ({"Text": "a", "TEXT": "b"}, "has the columns 'Text' and 'TEXT', either of which may be meant"),
    ],
)
def test_where_it_cannot_be_told_all_columns_and_their_types_are_named(tmp_path, row, named):
    with pytest.raises(BadInput, match=named):
        texts(write_rows(tmp_path / "a.jsonl", [row] * 3))


def test_a_table_of_many_columns_is_refused_in_a_short_sentence(tmp_path):
    with pytest.raises(BadInput, match="and 4980 more") as complaint:
        texts(write_rows(tmp_path / "a.jsonl", [{f"column {i}\n": "x" for i in range(5000)}]))
    assert len(str(complaint.value)) < 2000
    assert str(complaint.value).isprintable()


@pytest.mark.parametrize("message", [{"role": "user", "content": "hi"}, {"from": "human", "value": "hi"}])
def test_conversations_are_refused_as_what_they_are(tmp_path, message):
    with pytest.raises(BadInput, match="holds conversations in the column 'messages'"):
        texts(write_rows(tmp_path / "a.jsonl", [{"id": "a", "messages": [message]}]))


@pytest.mark.parametrize("column", ["row.text", "row.deep.text", "dotted.name"])
def test_a_column_inside_another_is_named_by_a_path(tmp_path, column):
    row = {"row": {"text": "row.text", "deep": {"text": "row.deep.text"}}, "dotted.name": "dotted.name"}
    assert texts(write_rows(tmp_path / "a.jsonl", [row]), column=column) == [column]


@pytest.mark.parametrize("column", ["a:b", "a\nb", "\x1b[31m", "x" * 300])
def test_a_column_may_be_called_anything(tmp_path, column):
    rows = [{column: SENTENCE.format(i), "other": "x"} for i in range(20)]
    data, lines = prepared(f"{write_rows(tmp_path / 'a.jsonl', rows)}:{column}")
    assert data.provenance["columns"] == [column]
    assert all(line.isprintable() for line in lines)
    with pytest.raises(BadInput, match=r"a\.jsonl has no column") as complaint:
        prepared(f"{tmp_path}/a.jsonl:{column}!")
    assert str(complaint.value).isprintable()


def test_files_of_one_folder_that_name_the_column_differently_are_refused(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_rows(folder / "a.jsonl", [{"text": "x"}] * 20)
    write_rows(folder / "b.jsonl", [{"content": "y"}] * 20)
    with pytest.raises(BadInput, match=r"'text' in a\.jsonl and 'content' in b\.jsonl"):
        prepared(folder)
    with pytest.raises(BadInput, match=r"b\.jsonl has no column 'text'"):
        prepared(f"{folder}:text")


def test_the_column_that_was_chosen_is_said(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"content": SENTENCE.format(i)} for i in range(20)])
    assert any("the column 'content'" in line for line in prepared(tmp_path / "a.jsonl")[1])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "a", "text": "b"}', "line 2 has the key 'text' twice"),
        ('{"text": "a", "n": 1' + "0" * 5000 + "}", "line 2 holds an integer with more than 4300 digits"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2 is not read: .* nested too deeply"),
        ('{"text": ["a", "b"]}', "line 2: column 'text' holds a list, not a string"),
        ('"text"', "line 2 is a JSON str, not an object"),
    ],
)
def test_a_row_that_is_no_row_is_named_by_its_line(tmp_path, line, complaint):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + line)
    with pytest.raises(BadInput, match=rf"a\.jsonl {complaint}"):
        texts(tmp_path / "a.jsonl")


def test_a_number_that_is_none_in_another_column_does_no_harm(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "score": NaN}')
    assert texts(tmp_path / "a.jsonl") == ["x"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.txt"])
def test_a_byte_order_mark_is_part_of_no_document(tmp_path, name):
    content = {"a.csv": "text\nhello\n", "a.json": '[{"text": "hello"}]', "a.txt": "hello"}
    text = content.get(name, '{"text": "hello"}')
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert texts(tmp_path / name, {"a.txt": "text"}.get(name, name[2:])) == ["hello"]


def test_a_json_array_is_read_as_rows(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "one"}, {"text": None}, {"text": "two"}], indent=2))
    assert texts(tmp_path / "a.json", "json") == ["one", "two"]


def test_a_json_array_is_found_after_any_white_space(tmp_path):
    (tmp_path / "a.json").write_text(" \n" * READ_BYTES + '[{"text": "one"}]')
    assert texts(tmp_path / "a.json", "json") == ["one"]


def test_a_json_file_of_lines_is_read_by_lines_and_any_other_is_refused(tmp_path):
    assert texts(write_rows(tmp_path / "a.json", [{"text": "one"}, {"text": "two"}]), "json") == ["one", "two"]
    (tmp_path / "b.json").write_text(json.dumps({"a": {"text": "x"}}, indent=2))
    with pytest.raises(BadInput, match="an array of rows is valid, or one row a line"):
        texts(tmp_path / "b.json", "json")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_with_its_quotes_and_line_ends(tmp_path, delimiter):
    rows = [["id", "text"], ["1", '"two\nlines, ""quoted"""'], ["2", ""], ["3", "plain"]]
    (tmp_path / "a.csv").write_text("\r\n".join(delimiter.join(row) for row in rows), newline="")
    skipped = SkippedRows()
    pieces = list(read_pieces([TextFile(tmp_path / "a.csv", "csv")], skipped))
    assert [piece.text.decode() for piece in pieces] == ['two\nlines, "quoted"', "plain"]
    assert skipped.rows == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('text\n"never closed', r"line 2 is not CSV"),
        ("id,text\n1,a,b", "line 2 has 3 cells"),
        ("text,text\na,b", "two columns called 'text'"),
        ("1,2\n3,4", r"1 \(float\), 2 \(float\)"),
    ],
)
def test_a_damaged_csv_file_is_refused_by_line(tmp_path, content, complaint):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(BadInput, match=complaint):
        texts(tmp_path / "a.csv", "csv")


def stored(kind):
    """A Parquet column of two strings and a null, stored in one of the ways that writers have."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra 'data') is not installed")
    types = {
        "view": pyarrow.string_view(),
        "large": pyarrow.large_string(),
        "binary": pyarrow.binary(),
        "plain": pyarrow.string(),
    }
    strings = pyarrow.array(["größer", None, "two"])
    column = strings.dictionary_encode() if kind == "dictionary" else strings.cast(types[kind])
    return pyarrow.table({"id": ["a", "b", "c"], "text": column})


@pytest.mark.parametrize("kind", ["dictionary", "view", "large", "binary", "plain"])
def test_strings_are_read_however_parquet_stores_them(tmp_path, kind):
    table = stored(kind)
    from pyarrow import parquet

    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", "parquet") == ["größer", "two"]


@pytest.mark.parametrize("kind", ["dictionary", "view", "plain"])
def test_a_parquet_column_inside_a_struct_is_named_by_a_path(tmp_path, kind):
    table = stored(kind)
    import pyarrow
    from pyarrow import parquet

    absent = pyarrow.array([False, False, True])
    row = pyarrow.StructArray.from_arrays([table["text"].combine_chunks()], ["text"], mask=absent)
    parquet.write_table(pyarrow.table({"id": [1, 2, 3], "row": row}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", "parquet", "row.text") == ["größer"]


def test_parquet_conversations_are_refused_as_what_they_are(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra 'data') is not installed")
    from pyarrow import parquet

    rows = [{"messages": [{"role": "user", "content": "hi"}]}] * 3
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="holds conversations in the column 'messages'"):
        texts(tmp_path / "a.parquet", "parquet")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "text"])
def test_a_gzip_file_cut_in_the_middle_of_its_stream_is_damaged(tmp_path, form):
    whole = gzip.compress("".join(json.dumps({"text": SENTENCE.format(i**3)}) + "\n" for i in range(90_000)).encode())
    path = tmp_path / f"a.{form}.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="is a damaged gzip file"):
        texts(path, form)
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" * 1000 + whole[len(whole) // 2 + 1000 :])
    with pytest.raises(BadInput, match=r"is a damaged gzip file|is not JSON"):
        texts(path, form)


def test_a_zstd_file_reads_like_the_file(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="zstandard (extra 'data') is not installed")
    two_frames = zstandard.compress("größer\n".encode()) + zstandard.compress(b"two\n" * 100_000)
    (tmp_path / "a.txt.zst").write_bytes(two_frames)
    assert "".join(texts(tmp_path / "a.txt.zst", "text")) == "größer\n" + "two\n" * 100_000


def test_without_zstandard_the_sentence_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.txt.zst").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"litmus-lm\[data\]"):
        texts(tmp_path / "a.txt.zst", "text")
