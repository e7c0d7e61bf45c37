import json
import sys

import pytest

from litmus.data.messages import no_log
from litmus.data.text.documents import TextFile, read_pieces
from litmus.data.text.hub import HubSource, local_copy
from litmus.errors import BadInput


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:owner/name:valid:body", HubSource("owner/name", "valid", "body", False)),
        ("hf-stream:owner/name:valid:body", HubSource("owner/name", "valid", "body", True)),
        ("hf:owner/name/config", HubSource("owner/name/config", "train", None, False)),
        ("hf:owner/name:valid", HubSource("owner/name", "valid", None, False)),
        ("hf:owner/name:train[:10%]:text", HubSource("owner/name", "train[:10%]", "text", False)),
    ],
)
def test_a_dataset_is_named_by_owner_split_and_column(text, source):
    assert HubSource.parse(text) == source


def test_a_dataset_without_a_name_is_refused():
    with pytest.raises(BadInput, match="hf:NAME:SPLIT:COLUMN"):
        HubSource.parse("hf:")


def test_without_the_extra_the_sentence_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"litmus-lm\[hf\]"):
        local_copy(HubSource("owner/name", "train", None, False), None, no_log)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets (extra 'hf') is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "dataset"
    folder.mkdir()
    rows = [{"text": f"row {i}", "n": i} for i in range(30)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def documents(source, sample_bytes=None):
    copy = local_copy(source, sample_bytes, no_log)
    return [piece.text.decode() for piece in read_pieces([TextFile(copy, "jsonl")])]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("place", ["", "/train.jsonl"])
def test_a_local_dataset_is_copied_row_by_row(dataset, streaming, place):
    source = HubSource(f"{dataset}{place}", "train", "text", streaming)
    assert documents(source) == [f"row {i}" for i in range(30)]


def test_only_as_many_rows_are_copied_as_the_sample_needs(dataset):
    assert documents(HubSource(str(dataset), "train", None, True), sample_bytes=11) == ["row 0", "row 1", "row 2"]


def test_a_local_dataset_that_changed_is_copied_anew(dataset):
    source = HubSource(str(dataset), "train", None, False)
    documents(source)
    (dataset / "train.jsonl").write_text('{"text": "new", "n": 1}')
    assert documents(source) == ["new"]


@pytest.mark.parametrize(
    ("split", "column", "complaint"),
    [("train", "tex", "did you mean 'text'"), ("train", "n", "holds a int"), ("valid", "text", "split valid")],
)
def test_a_wrong_split_or_column_is_one_sentence(dataset, split, column, complaint):
    with pytest.raises(BadInput, match=complaint) as error:
        documents(HubSource(f"{dataset}/train.jsonl", split, column, False))
    assert "\n" not in str(error.value)
