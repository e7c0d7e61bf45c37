"""What a path, a folder or a pattern may be, and what is said of those that stand for no text."""

import os

import pytest

from litmus.data.text.corpora import resolve
from litmus.data.text.documents import read_pieces
from litmus.errors import BadInput


def found(name, lines=None):
    return resolve(str(name), sample_bytes=None, log=(lines if lines is not None else []).append)


def refused(name):
    with pytest.raises(BadInput) as complaint:
        for _ in read_pieces(found(name).files):
            pass
    sentence = str(complaint.value)
    assert sentence.isprintable()
    assert len(sentence) < 1000
    return sentence


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "texts"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.txt").write_text("b")
    return root


def names(corpus, root):
    return [file.path.relative_to(root).as_posix() for file in corpus.files]


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_an_empty_name_does_not_stand_for_this_folder(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    assert "the corpus has no name" in refused(name)


NO_FILES = ["x" * 256, "x" * 5000, "a\0b", "~nobody-here/x", "\x1b[31m", "a\nb", "\udcff", "[", "**/["]


@pytest.mark.parametrize("name", NO_FILES)
def test_a_name_that_no_file_has_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert "neither a named one nor a file" in refused(name)


@pytest.mark.parametrize(
    ("path", "what"), [("/dev/zero", "a device"), ("/dev/null", "a device"), ("/proc/self/mem", "cannot be read")]
)
def test_devices_are_refused_and_not_read_for_ever(path, what):
    assert what in refused(path)


def test_a_pipe_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe.txt")
    assert "is a pipe" in refused(folder / "pipe.txt")
    assert "is a pipe" in refused(f"{folder}/*.txt")
    lines = []
    assert names(found(folder, lines), folder) == ["a.txt", "sub/b.txt"]
    assert any("skipped 1 files" in line for line in lines)


def test_links_that_lead_nowhere_or_in_a_circle_are_named(folder):
    (folder / "nowhere.txt").symlink_to("missing")
    (folder / "circle.txt").symlink_to("circle.txt")
    assert "a link to nowhere" in refused(folder / "nowhere.txt")
    assert "cannot be read" in refused(folder / "circle.txt")
    lines = []
    assert names(found(folder, lines), folder) == ["a.txt", "sub/b.txt"]
    assert any("skipped 2 files" in line for line in lines)


def test_linked_folders_are_followed_and_each_is_entered_once(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.txt").write_text("c")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "sub" / "self").symlink_to(".")
    assert names(found(folder), folder) == ["a.txt", "linked/c.txt", "sub/b.txt"]
    assert names(found(f"{folder}/**/*.txt"), folder) == ["a.txt", "linked/c.txt", "sub/b.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a.txt"]),
        ("**", ["a.txt", "sub/b.txt"]),
        ("**/**/b*", ["sub/b.txt"]),
        ("*/*.txt", ["sub/b.txt"]),
        ("?.txt", ["a.txt"]),
        (".*", [".hidden"]),
        ("[ab].txt", ["a.txt"]),
    ],
)
def test_patterns_match_as_in_a_shell(folder, pattern, expected):
    (folder / ".hidden").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "b.txt").write_text("x")
    assert names(found(f"{folder}/{pattern}"), folder) == expected


def test_names_that_are_no_utf8_or_hold_line_ends_are_read_and_shown_on_one_line(folder):
    for name in [b"\xff\xfe.txt", b"new\nline.txt", b"\x1b[31m.txt"]:
        with open(os.path.join(os.fsencode(folder), name), "w") as file:
            file.write("text\0")
    for path in sorted(folder.glob("*.txt"))[:1] + sorted(folder.glob("*[!a].txt")):
        assert "contains NUL bytes" in refused(path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *[("a.bz2", "compressed"), ("a.jsonl.xz", "compressed"), ("a.zip", "an archive"), ("a.tar.gz", "an archive")],
        *[("a.PDF", "no plain text"), ("a.docx", "no plain text"), ("a.png", "no text"), ("a.xlsx", "rows as")],
        *[("a.ipynb", "no plain text"), ("a.parquet.gz", "inside another compression"), ("a.7z", "an archive")],
    ],
)
def test_files_whose_names_say_that_they_are_no_text_are_refused_as_what_they_are(folder, name, what):
    (folder / name).write_text("whatever")
    assert what in refused(folder / name)
    lines = []
    assert names(found(folder, lines), folder) == ["a.txt", "sub/b.txt"]
    assert any("skipped 1 files" in line for line in lines)


def test_a_folder_without_text_says_what_it_holds(folder):
    (folder / "a.txt").rename(folder / "a.json")
    (folder / "sub" / "b.txt").rename(folder / "sub" / "b.csv")
    assert "it holds 1 of .csv, 1 of .json" in refused(folder).replace("1 of .json, 1 of .csv", "1 of .csv, 1 of .json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(folder, encoding):
    (folder / "a.txt").write_text("text", encoding=encoding)
    assert "UTF-16" in refused(folder / "a.txt") or "UTF-32" in refused(folder / "a.txt")


def test_a_nul_byte_far_into_a_file_is_refused(folder):
    (folder / "a.txt").write_bytes(b"text " * 100_000 + b"\0")
    assert "the first at byte 500000" in refused(folder / "a.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_an_unreadable_file_or_folder_is_named(folder):
    (folder / "sub").chmod(0)
    assert "sub cannot be read" in refused(folder) or "cannot be read" in refused(folder)
    (folder / "a.txt").chmod(0)
    assert "a.txt cannot be read" in refused(folder / "a.txt")
    (folder / "sub").chmod(0o700)
