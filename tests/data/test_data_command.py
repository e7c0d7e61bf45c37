import json
import re

import pytest
from typer.testing import CliRunner

from litmus.cli.data import app
from litmus.data import NAMED
from litmus.errors import BadInput


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_show_prints_the_counts_and_the_beginning_of_the_held_out_text(stories):
    done = run("show", stories, "--tokenizer", "bytes", "--held-out", "0.3")
    assert done.exit_code == 0
    assert "fingerprint" in done.output
    assert "Story" in done.output.split("held-out text begins:")[1]


def test_prepare_prints_the_fingerprint_that_show_prints(stories):
    options = (stories, "--tokenizer", "bpe-300", "--sample-bytes", "1000")
    first = run("prepare", *options).stdout
    assert first
    assert run("show", *options).stdout.startswith(first)


def test_list_names_every_named_corpus():
    listed = run("list").output.splitlines()
    assert [line.split()[0] for line in listed] == list(NAMED)


def test_bad_input_reaches_the_roof_as_bad_input(tmp_path):
    done = run("prepare", tmp_path / "missing.txt")
    assert isinstance(done.exception, BadInput)


@pytest.mark.parametrize("command", [[], ["prepare"], ["show"], ["list"]])
def test_help_has_examples_or_lists_the_commands(command):
    done = run(*command, "--help")
    assert done.exit_code == 0
    assert ("Examples" if command else "prepare") in done.output


def test_the_corpus_is_named_by_data_as_in_the_other_commands(stories, tmp_path):
    options = ("--tokenizer", "bytes")
    assert run("show", "--data", stories, *options).stdout == run("show", stories, *options).stdout
    assert run("show", stories, "--data", stories, *options).exit_code == 0
    done = run("prepare", stories, "--data", tmp_path / "other.txt", *options)
    assert isinstance(done.exception, BadInput) and "two corpora" in str(done.exception)


def conversations(tmp_path):
    path = tmp_path / "chats.jsonl"
    talks = [(f"question {number}", f"answer {number}") for number in range(6)]
    rows = [
        [{"role": role, "content": text} for role, text in zip(("user", "assistant"), talk, strict=True)]
        for talk in talks
    ]
    said = "".join(json.dumps({"messages": row}) + "\n" for row in rows)
    path.write_text(said, encoding="utf-8")
    return path


def test_threads_are_prepared_under_either_name_and_their_card_adds_up(tmp_path):
    path = conversations(tmp_path)
    first = run("prepare", "--threads", path, "--tokenizer", "bytes")
    assert first.exit_code == 0, first.exception
    assert first.stdout == run("prepare", f"threads:{path}", "--tokenizer", "bytes").stdout
    assert "12 read = 12 messages kept + 0 dropped" in first.stdout
    made = json.loads(run("prepare", "--threads", path, "--tokenizer", "bytes", "--json").stdout)
    assert {split: counts["terminators_trained"] for split, counts in made["windows"].items()} == {
        "train": 3, "validation": 1, "held_out": 2,
    }  # fmt: skip


def test_the_mask_shows_a_window_and_what_is_trained_on(tmp_path):
    path = conversations(tmp_path)
    shown = run("show", "--threads", path, "--tokenizer", "bytes", "--mask", "--window", "1")
    assert shown.exit_code == 0, shown.exception
    number = re.search(r"question (\d)", shown.stdout)[1]
    end = "<|endoftext|>"
    assert shown.stdout == f"{end}user: question {number}{end}assistant:⟦ answer {number}{end}⟧\n"
    pieces = json.loads(run("show", "--threads", path, "--tokenizer", "bytes", "--mask", "--json").stdout)
    assert [piece["text"] for piece in pieces if piece["trained"]][-1] == end
    beyond = run("show", "--threads", path, "--tokenizer", "bytes", "--mask", "--window", "9")
    assert isinstance(beyond.exception, BadInput) and "has windows 0 to 2" in str(beyond.exception)


def test_a_text_has_no_mask(stories):
    done = run("show", stories, "--tokenizer", "bytes", "--mask")
    assert isinstance(done.exception, BadInput) and "every token of a text is trained on" in str(done.exception)


def test_a_format_of_times_is_given_as_it_is_written(tmp_path):
    path = tmp_path / "table.jsonl"
    rows = [
        {"thread": t, "time": f"{n + 1:02}/03/2021 {t:02}:00", "author": "ab"[n % 2], "text": f"said {t} {n}"}
        for t in range(4)
        for n in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = run("prepare", "--threads", path, "--tokenizer", "bytes", "--chat", "time_format=%d/%m/%Y %H:%M", "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["times"] == {"%d/%m/%Y %H:%M": 24}
