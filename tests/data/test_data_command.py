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
