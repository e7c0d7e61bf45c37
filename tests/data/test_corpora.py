import pytest

from litmus.data.messages import no_log
from litmus.data.text.corpora import NAMED, PRESETS, STDLIB_EXCLUDED, resolve
from litmus.errors import BadInput


def found(name):
    return resolve(name, sample_bytes=None, log=no_log)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "texts"
    for name in ["b.txt", "a.md", "sub/c.py", "rows.jsonl", "notes.rst", ".hidden.txt", ".git/d.txt"]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "x"}')
    return root


def names(corpus, root):
    return [file.path.relative_to(root).as_posix() for file in corpus.files]


def test_the_standard_library_is_found_without_its_tests():
    files = found("stdlib").files
    assert len(files) > 300
    assert files == sorted(files, key=lambda file: file.path)
    assert all(file.path.suffix == ".py" for file in files)
    assert not any(STDLIB_EXCLUDED & set(file.path.parts[-4:]) for file in files)


def test_a_folder_stands_for_its_visible_text_files_in_order(folder):
    assert names(found(str(folder)), folder) == ["a.md", "b.txt", "rows.jsonl", "sub/c.py"]


def test_a_glob_stands_for_every_file_it_matches(folder):
    assert names(found(f"{folder}/*s*"), folder) == ["notes.rst", "rows.jsonl"]
    assert names(found(f"{folder}/**/*.py"), folder) == ["sub/c.py"]


def test_a_file_named_in_person_is_read_as_text_whatever_its_suffix(folder):
    assert [file.format for file in found(f"{folder}/notes.rst").files] == ["text"]


def test_a_column_may_follow_the_path(folder):
    (folder / "rows.jsonl").write_text('{"text": "x", "body": "y"}')
    assert [file.column for file in found(f"{folder}/rows.jsonl:body").files] == ["body"]
    assert [file.column for file in found(f"{folder}/*.jsonl:body").files] == ["body"]
    with pytest.raises(BadInput, match="has no columns"):
        found(f"{folder}/b.txt:body")


def test_a_path_that_holds_a_colon_is_taken_as_it_is(folder):
    (folder / "odd:text.txt").write_text("x")
    assert names(found(f"{folder}/odd:text.txt"), folder) == ["odd:text.txt"]


def test_contents_do_not_depend_on_where_the_files_lie(folder, tmp_path):
    before = found(str(folder)).contents(no_log)
    folder.rename(tmp_path / "elsewhere")
    assert found(str(tmp_path / "elsewhere")).contents(no_log) == before
    (tmp_path / "elsewhere" / "b.txt").write_text("changed")
    assert found(str(tmp_path / "elsewhere")).contents(no_log) != before


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("shakespere", "did you mean 'shakespeare'"),
        ("no/such/file", "nor a file, folder or pattern"),
        ("nothing*.txt", "nor a file, folder or pattern"),
        ("missing.txt", "nor a file, folder or pattern"),
        ("missing.jsonl:text", "nor a file, folder or pattern"),
    ],
)
def test_an_unknown_corpus_is_refused(name, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=complaint):
        found(name)


def test_a_folder_without_text_files_is_refused(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\0")
    with pytest.raises(BadInput, match=r"holds no text files; valid: \.txt"):
        found(str(tmp_path / "pictures"))


def test_every_preset_is_listed_with_the_named_corpora():
    assert set(PRESETS) < set(NAMED)
