import json
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litmus.data.chat.near_duplicates import MIN_SIMILARITY, NearDuplicates, shingles, similarity
from litmus.data.chat.reading import ThreadSettings
from litmus.data.chat.threads import THREAD_SPLITS, Threads, write_threads
from litmus.errors import BadInput


@pytest.fixture
def cleaned(write, tmp_path_factory):
    def make(rows, held_out=0.3, sample_bytes=None, **options):
        folder = tmp_path_factory.mktemp("threads")
        how = {"held_out": held_out, "sample_bytes": sample_bytes, "log": lambda line: None}
        write_threads(folder, [(write(rows), "jsonl")], ThreadSettings(**options), **how)
        return Threads(folder)

    return make


def texts(threads):
    return {split: [[turn.text for turn in thread.turns] for thread in threads.of(split)] for split in THREAD_SPLITS}


def test_threads_are_split_whole_and_every_row_is_accounted_for(cleaned, rows):
    rows[3]["message"] = "  \x07 "
    rows[5] = dict(rows[4])
    rows[8]["message_timestamp"] = "soon"
    rows[9]["message"] = None
    rows += [{**rows[0], "thread_title": "short"}, {**rows[1], "thread_title": "short"}]
    rows += [{**row, "thread_title": "again"} for row in rows[16:24]]
    threads = cleaned(rows)
    counts = threads.counts
    assert counts["dropped"] == {
        "with a time that cannot be read": 1,
        "without thread, author or text": 1,
        "empty": 1,
        "duplicate of a message of its thread": 1,
        "in a duplicate of another thread": 8,
        "in a thread of too few messages": 2,
    }
    assert counts["rows"] == len(rows) == sum(counts["messages"].values()) + sum(counts["dropped"].values())
    found = texts(threads)
    assert (
        {split: len(found[split]) for split in found}
        == counts["threads"]
        == {"train": 7, "validation": 1, "held_out": 4}
    )
    assert {split: sum(map(len, found[split])) for split in found} == counts["messages"]
    titles = [{text.split()[-1].split(".")[0] for thread in found[split] for text in thread} for split in THREAD_SPLITS]
    assert sum(map(len, titles)) == len(set.union(*titles)), "no thread is in two splits"


def test_a_split_depends_on_names_and_seed_and_not_on_the_order_of_rows(cleaned, rows):
    whole, other = texts(cleaned(rows)), texts(cleaned(rows, seed=43))
    backwards = texts(cleaned([row for thread in range(11, -1, -1) for row in rows[8 * thread : 8 * thread + 8]]))
    assert {split: sorted(found) for split, found in whole.items()} == {
        split: sorted(found) for split, found in backwards.items()
    }
    assert whole != other


def test_messages_are_sorted_by_time_and_ties_keep_the_order_of_the_file(cleaned, rows):
    for number, minute in enumerate((5, 3, 3, 3, 1, 9, 9, 2)):
        rows[number]["message_timestamp"] = f"2024-03-01 10:{minute:02}"
    shuffled = rows[8:] + rows[:8]
    found = [
        thread
        for threads in texts(cleaned(shuffled)).values()
        for thread in threads
        if thread[0].split()[-1][:2] == "0."
    ]
    assert [text.split(".")[1] for text in found[0]] == ["4", "7", "1", "2", "3", "0", "5", "6"]


def test_no_near_duplicate_of_a_held_out_message_is_trained_on(cleaned, rows):
    same = "you need to install the restricted drivers package and then run the setup tool again please"
    for thread in range(12):
        rows[8 * thread + 4]["message"] = f"{same} {'now' if thread % 2 else 'ok'}"
    threads = cleaned(rows)
    found = texts(threads)
    assert threads.counts["dropped"] == {"near-duplicate of a message of another split": 8}
    assert threads.counts["compared_for_near_duplicates"] == 12
    assert [any(text.startswith(same) for thread in found[split] for text in thread) for split in found] == [
        False,
        False,
        True,
    ]


def test_control_characters_and_halves_of_characters_are_left_out_and_counted(cleaned, rows):
    rows[0]["message"] = "\x0304red\x03 and\r\n\ufdd0blue\ud83d"
    rows[0]["message_username"] = " a: b\n c "
    threads = cleaned(rows)
    turn = next(t for split in THREAD_SPLITS for thread in threads.of(split) for t in thread.turns if "red" in t.text)
    assert (turn.text, turn.author) == ("04red and\nblue\N{REPLACEMENT CHARACTER}", "a:b c")
    assert {name.split(",")[0]: count for name, count in threads.counts["cleaned"].items()} == {
        "messages with invalid UTF-8": 1,
        "messages with control characters": 1,
    }


@pytest.mark.parametrize("kept", [8, 16])
def test_too_few_threads_are_refused(cleaned, rows, kept):
    with pytest.raises(BadInput, match=f"holds {kept // 8} threads of 4 or more messages; at least 3 are needed"):
        cleaned(rows[:kept])


def test_threads_that_are_all_too_short_are_refused_and_shorter_ones_can_be_asked_for(cleaned, rows):
    short = [row for number, row in enumerate(rows) if number % 8 < 3]
    with pytest.raises(BadInput, match=r"holds 0 threads of 4 or more messages.*min_messages=N"):
        cleaned(short)
    assert sum(cleaned(short, min_messages=3).counts["messages"].values()) == len(short)


def test_only_the_first_bytes_are_used_if_asked(cleaned, rows):
    some = sum(len(row["message"]) for row in rows[:48])
    assert cleaned(rows, sample_bytes=some).counts["rows"] == 48


WORDS = st.lists(st.sampled_from("abcdefghij"), min_size=8, max_size=20)


@settings(max_examples=40)
@given(st.lists(WORDS, min_size=1, max_size=6), WORDS, st.integers(0, 19), st.sampled_from("klm"))
def test_the_index_finds_what_is_similar_and_nothing_else(indexed, base, place, other):
    changed = list(base)
    changed[place % len(base)] = other
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, text TEXT)")
        index = NearDuplicates(database)
        for number, words in enumerate([*indexed, base]):
            text = " ".join(words)
            database.execute("INSERT INTO messages VALUES (?, ?)", (number, text))
            assert index.add(number, text)
        assert index.holds_like(" ".join(base).upper())
        asked = " ".join(changed)
        most = max(similarity(shingles(asked), shingles(" ".join(words))) for words in [*indexed, base])
        assert index.holds_like(asked) == (most >= MIN_SIMILARITY)


def test_what_was_cleaned_is_written_with_its_counts(cleaned, rows, tmp_path):
    counts = cleaned(rows).counts
    assert counts["messages_in_a_thread"] == {"shortest": 8, "median": 8, "longest": 8}
    assert (counts["authors"], counts["times"], json.dumps(counts) != "") == (3, {"ISO 8601": 96}, True)
