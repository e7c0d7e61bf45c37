"""`litmus data` as a process: exit codes, one sentence on stderr, JSON alone on stdout."""

import gzip
import json
import subprocess
import sys

import pytest

LITMUS = "from litmus.cli import main; main()"


def litmus(*arguments, **options):
    command = [sys.executable, "-c", LITMUS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)


def refused(*arguments):
    done = litmus(*arguments)
    sentence = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert sentence.startswith("litmus: ")
    assert "Traceback" not in done.stderr
    return sentence


def test_prepare_show_and_list_print_json_alone(stories):
    made = json.loads(litmus("data", "prepare", stories, "--tokenizer", "bytes", "--json").stdout)
    shown = json.loads(litmus("data", "show", stories, "--tokenizer", "bytes", "--json").stdout)
    listed = json.loads(litmus("data", "list", "--json").stdout)
    assert sum(made["documents"].values()) == 40
    assert shown["held_out_begins"].startswith("Story")
    assert {**made, "held_out_begins": shown["held_out_begins"]} == shown
    assert "stdlib" in listed


@pytest.mark.parametrize("command", ["import litmus.cli.data as d; d.list_corpora()", "import litmus.data.preparation"])
def test_corpora_are_listed_and_prepared_without_torch(command):
    code = f"{command}\nimport sys; print(sorted({{'torch', 'scipy', 'pyarrow', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_damaged_file_is_one_sentence_and_no_interruption(tmp_path):
    whole = gzip.compress(json.dumps({"text": "some words"}).encode() + b"\n" * 5_000_000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-100])
    assert "a.jsonl.gz is a damaged gzip file" in refused("data", "prepare", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["/dev/zero"], "/dev/zero is a device"),
        ([""], "the corpus has no name"),
        (["a\nb\x1b" + "c" * 300], "neither a named one nor a file"),
        (["stdlb"], "did you mean 'stdlib'"),
        (["probe:mqar"], "litmus probe and litmus compare train and score on it"),
        (["--tokenizer", "bpe-99999999999"], "1048576 is the largest vocabulary"),
        (["--tokenizer", "bpe-" + "9" * 5000], "1048576 is the largest vocabulary"),
        (["--tokenizer", "bpe-0"], "257 is the smallest vocabulary"),
        (["--tokenizer", "bpe--1"], "a whole number N from 257"),
        (["--tokenizer", "bpe-1e3"], "a whole number N from 257"),
        (["--held-out", "0"], "held_out is"),
        (["--held-out", "1"], "held_out is"),
        (["--held-out", "nan"], "held"),
        (["--held-out", "-1"], "held"),
        (["--sample-bytes", "0"], "sample"),
        (["--sample-bytes", "1" + "0" * 30], "sample"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence(arguments, complaint):
    assert complaint in refused("data", "prepare", *arguments)


def test_two_that_prepare_the_same_at_once_both_succeed(stories):
    command = [sys.executable, "-c", LITMUS, "data", "prepare", str(stories), "--tokenizer", "bpe-300", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    fingerprints = {json.loads(process.communicate()[0])["fingerprint"] for process in both}
    assert len(fingerprints) == 1
    assert [process.returncode for process in both] == [0, 0]


def test_a_word_of_megabytes_is_learned_from_in_parts(tmp_path):
    import random

    letters = random.Random(0).choices("abcdefghijklmnop", k=1_000_000)
    (tmp_path / "a.txt").write_text("".join(letters))
    done = litmus("data", "prepare", tmp_path / "a.txt", "--tokenizer", "bpe-600", "--json", timeout=300)
    made = json.loads(done.stdout)
    assert made["vocab_size"] == 600
    assert sum(made["bytes"].values()) == 1_000_000
