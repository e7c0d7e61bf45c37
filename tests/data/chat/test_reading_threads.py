import csv
import gzip
import json
from datetime import datetime

import pytest

from litmus.data import data_settings_from, prepare
from litmus.data.chat.reading import Targets, ThreadSettings, TurnReader, parse_time
from litmus.errors import BadInput


def turns(path, form="jsonl", log=lambda line: None, **options):
    return list(TurnReader(ThreadSettings(**options), log).turns([(path, form)]))


def test_a_table_is_read_by_the_usual_names_of_its_columns_and_by_those_given(rows, write):
    first = turns(write(rows))[0]
    assert (first.thread, first.author, first.text) == ("thread 0", "user0", rows[0]["message"])
    renamed = [dict(zip(("Topic", "When", "Nick", "Said"), row.values(), strict=True)) for row in rows]
    own = {"thread_column": "Topic", "time_column": "When", "author_column": "Nick", "text_column": "Said"}
    assert [turn[:5] for turn in turns(write(renamed, "own.jsonl"), **own)] == [turn[:5] for turn in turns(write(rows))]


def test_csv_gzip_and_parquet_hold_the_same_turns(rows, write, tmp_path):
    expected = [turn[:5] for turn in turns(write(rows))]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(write(rows).read_bytes()))
    assert [turn[:5] for turn in turns(tmp_path / "t.csv", "csv")] == expected
    assert [turn[:5] for turn in turns(tmp_path / "t.jsonl.gz")] == expected
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert [turn[:5] for turn in turns(tmp_path / "t.parquet", "parquet")] == expected


CONVERSATIONS = [
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ]
    },
    {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ]
    },
    {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "completion": "a"},
]


@pytest.mark.parametrize("row", CONVERSATIONS)
def test_conversations_of_every_format_are_the_same_turns(row, write):
    read = [(turn.role, turn.text) for turn in turns(write([row]))]
    assert read == [("system", "s"), ("user", "q"), ("assistant", "a")]
    assert [(turn.role, turn.text) for turn in turns(write([{"prompt": "q", "completion": "a"}]))] == read[1:]


def test_messages_may_have_names(write):
    said = [{"role": "user", "content": "q", "name": "Ann"}, {"role": "assistant", "content": "a", "name": "Bob"}]
    assert [turn.author for turn in turns(write([{"messages": said}]))] == ["Ann", "Bob"]


@pytest.mark.parametrize(
    "written",
    ["2021-03-04 15:07", "2021-03-04T15:07:00Z", "2021-03-04T16:07+01:00", "Mar 4, 2021 at 3:07 PM",
     "March 04, 2021 at 03:07 PM", "Thu, 04 Mar 2021 15:07:00 +0000", "4 Mar 2021 15:07", "2021/03/04 15:07",
     1614870420, "1614870420", 1614870420000, datetime(2021, 3, 4, 15, 7)],
)  # fmt: skip
def test_usual_forms_of_a_time_are_read(written):
    assert parse_time(written)[0] == 1614870420


@pytest.mark.parametrize("written", ["03/04/2021", "yesterday", "", None, True, "2021-13-01", "99999999999999999999"])
def test_what_is_no_time_or_has_two_meanings_is_not_guessed(written):
    assert parse_time(written) is None


def test_a_form_that_is_given_decides_what_a_time_means(rows, write):
    rows[0]["message_timestamp"] = "04/03/2021 15:07"
    path = write(rows[:1])
    assert turns(path, time_format="%d/%m/%Y %H:%M")[0].time == 1614870420
    assert turns(path, time_format="%m/%d/%Y %H:%M")[0].time == 1617462420


def test_times_that_cannot_be_read_and_two_formats_are_reported_with_their_lines(rows, write):
    rows[2]["message_timestamp"] = "soon"
    rows[3]["message_timestamp"] = "Mar 1, 2024 at 10:03 AM"
    lines = []
    assert len(turns(write(rows), log=lines.append)) == len(rows) - 1
    assert any("1 rows were dropped" in line and "line 3 ('soon')" in line for line in lines)
    assert any("times are in 2 formats" in line and "1 %b %d, %Y at %I:%M %p" in line for line in lines)


BAD = {
    "a column is missing": ([{"thread": 1, "text": "x"}], "has no column of the time.*'thread', 'text'.*time_column"),
    "a role is unknown": ([{"messages": [{"role": "narrator", "content": "x"}]}], "line 1 has the role 'narrator'"),
    "a content is a list": ([{"messages": [{"role": "user", "content": ["x"]}]}], "has a content that is a list"),
    "all times are bad": (
        [{"thread": 1, "time": "03/04/2021", "author": "a", "text": "x"}], r"1 rows.*line 1 \('03/04/2021'\).*time_f",
    ),
    "a text is a list": ([{"thread": 1, "time": 1e9, "author": "a", "text": ["x"]}], "line 1: thread, author and text"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_a_sentence_with_the_line(case, write):
    content, sentence = BAD[case]
    with pytest.raises(BadInput, match=sentence):
        turns(write(content))


def test_a_column_that_is_named_and_not_there_is_refused(rows, write):
    with pytest.raises(
        BadInput, match="has no column 'nick', and it holds no conversations; its columns: 'thread_title'"
    ):
        turns(write(rows), author_column="nick")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b'{"thread": "a", "time": "2024-01-01", "author": "x", "text": "one"}\n{"thread": "a", "ti',
            "line 2 is not JSON",
        ),
        (b"thread,time,author,text\na,2024-01-01,x,one\na,2024-01-01,x\n", "line 3 has 3 cells, where 4 columns"),
        ('{"thread": "a"}'.encode("utf-16"), "UTF-16"),
        (b"", "holds no messages"),
        (b"just some text", "line 1 is not JSON"),
    ],
)
def test_files_that_are_cut_or_of_another_encoding_are_refused(content, sentence, tmp_path):
    path = tmp_path / ("t.csv" if b"thread,time" in content else "t.jsonl")
    path.write_bytes(content)
    with pytest.raises(BadInput, match=sentence):
        prepare(data_settings_from({"corpus": f"threads:{path}", "tokenizer": "bytes"}))


@pytest.mark.parametrize("source", ["nowhere.jsonl", "notes.txt", "", "empty"])
def test_a_source_that_holds_no_rows_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no threads at|holds no rows|no text files"):
        prepare(data_settings_from({"corpus": f"threads:{source}"}))


def test_targets_are_chosen_by_author_role_or_place():
    said = [("ann", "user"), ("bob", "assistant"), ("ann", "user")]
    assert Targets.parse("every").chosen(said) == [0, 1, 2]
    assert Targets.parse("last").chosen(said) == [2]
    assert Targets.parse("role:assistant").chosen(said) == [1]
    assert Targets.parse("author:ann, carl").chosen(said) == [0, 2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"corpus": "threads:x", "chat": {"targets": "some"}}, "targets = 'some'; every, last"),
        ({"corpus": "threads:x", "chat": {"windw": 3}}, "unknown key 'chat.windw'; did you mean 'window'"),
        ({"corpus": "threads:x", "chat": {"window": -1}}, "chat.window = -1 is not valid"),
        ({"corpus": "stdlib", "chat": {"window": 3}}, "chat options are for threads"),
    ],
)
def test_options_that_are_wrong_are_named(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        data_settings_from(options)


def test_threads_hold_out_more_than_texts_unless_told():
    assert data_settings_from({"corpus": "threads:x"}).held_out == 0.3
    assert data_settings_from({"corpus": "threads:x", "held_out": 0.2}).held_out == 0.2
    assert data_settings_from({}).held_out == 0.1
    assert json.loads(data_settings_from({"corpus": "threads:x"}).model_dump_json())["chat"]["seed"] == 42


def test_a_dataset_of_the_hub_is_read_as_the_same_rows_in_a_file(rows, write, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets (extra 'hf') is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    file = write(rows)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.jsonl").write_bytes(file.read_bytes())
    plain, hub = (
        prepare(data_settings_from({"corpus": f"threads:{source}", "tokenizer": "bytes"}))
        for source in (file, f"hf:{tmp_path / 'set'}:test")
    )
    assert plain.train.tolist() == hub.train.tolist() and plain.held_out.tolist() == hub.held_out.tolist()
    assert {**plain.provenance, "corpus": 0, "key": 0} == {**hub.provenance, "corpus": 0, "key": 0}
