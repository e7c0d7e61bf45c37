import gzip
import json
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from litmus.data import DataSettings, prepare, sample, summary
from litmus.data.cache import cache_folder
from litmus.data.text.documents import MAX_PIECE_BYTES
from litmus.data.tokens import token_files
from litmus.data.tokens.tokenizer import BytePairTokenizer
from litmus.errors import BadInput
from litmus.files import MANIFEST

TOKENIZERS = ["bytes", "bpe-400"]


def prepared(corpus, tokenizer="bytes", log=None, **settings):
    return prepare(DataSettings(corpus=str(corpus), tokenizer=tokenizer, **settings), log=log)


def documents(data, split):
    """The documents of a stream, decoded; checks that it begins and ends with the end token."""
    tokens = np.asarray(getattr(data, split))
    ends = np.flatnonzero(tokens == data.tokenizer.eos_id)
    assert ends[0] == 0
    assert ends[-1] == len(tokens) - 1
    return [data.tokenizer.decode(tokens[start + 1 : stop].tolist()) for start, stop in pairwise(ends)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_document_is_in_exactly_one_stream_in_order(stories, tokenizer):
    data = prepared(stories, tokenizer)
    train, held_out = documents(data, "train"), documents(data, "held_out")
    originals = [path.read_text(encoding="utf-8") for path in sorted(stories.iterdir())]
    assert [text for text in originals if text in train] == train
    assert [text for text in originals if text in held_out] == held_out
    assert sorted(train + held_out) == sorted(originals)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_token_bytes_of_a_split_sum_to_its_text(stories, tokenizer):
    data = prepared(stories, tokenizer)
    for split in ("train", "held_out"):
        text_bytes = sum(len(text.encode()) for text in documents(data, split))
        assert data.token_bytes[getattr(data, split)].sum() == text_bytes == data.provenance["bytes"][split]
        assert len(getattr(data, split)) == data.provenance["tokens"][split]
        assert len(documents(data, split)) == data.provenance["documents"][split]
    total = sum(path.stat().st_size for path in stories.iterdir())
    assert sum(data.provenance["bytes"].values()) == total


def test_a_single_long_file_is_cut_and_both_parts_are_whole_text(tmp_path):
    text = "naïve café 猫\n" * (3 * MAX_PIECE_BYTES // 17)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    data = prepared(tmp_path / "a.txt", "bpe-300", held_out=0.25)
    (train,), (held_out,) = documents(data, "train"), documents(data, "held_out")
    assert train + held_out == text
    assert len(held_out.encode()) == pytest.approx(0.25 * len(text.encode()), abs=4)
    assert data.provenance["split"] == "contiguous"


def test_the_same_text_gives_the_same_fingerprint_in_another_place_and_cache(stories, tmp_path, monkeypatch):
    first = prepared(stories, "bpe-400")
    stories.rename(tmp_path / "moved")
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache2"))
    again = prepared(tmp_path / "moved", "bpe-400")
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.train, first.train)


def test_whatever_changes_the_tokens_or_how_they_were_made_changes_the_fingerprint(stories):
    fingerprints = {
        prepared(stories, **settings).fingerprint
        for settings in [
            *({}, {"tokenizer": "bpe-300"}, {"tokenizer": "bpe-301"}),
            *({"held_out": 0.2}, {"sample_bytes": 900}, {"sample_bytes": 10**9}),
        ]
    }
    (stories / "00.txt").write_text("changed")
    fingerprints.add(prepared(stories).fingerprint)
    assert len(fingerprints) == 7


def test_token_files_are_built_once_and_mapped_read_only(stories, monkeypatch):
    first = prepared(stories)
    monkeypatch.setattr("litmus.data.preparation.write_token_files", lambda *_, **__: pytest.fail("built again"))
    again = prepared(stories)
    assert again.fingerprint == first.fingerprint
    assert isinstance(again.train, np.memmap)
    assert not again.train.flags.writeable


def test_a_sample_takes_the_first_bytes(stories):
    data = prepared(stories, sample_bytes=500)
    assert sum(data.provenance["bytes"].values()) in range(497, 501)


def test_replaced_utf8_is_counted_and_announced_also_from_the_cache(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 " * 30)
    for _ in range(2):
        lines = []
        data = prepared(tmp_path / "a.txt", log=lines.append)
        assert data.provenance["bad_utf8_replaced"] == 30
        assert "30 invalid UTF-8 sequences were replaced" in lines[-1]


def test_a_vocabulary_beyond_16_bits_is_stored_in_32(stories, monkeypatch):
    symbols = [chr(i) for i in range(0x100, 0x144)] + [chr(i) for i in range(0x21, 0x7F)]
    merges = [f"{a} {b}" for a in symbols for b in symbols]
    merges += [f"{a}{b} {c}" for a in symbols[:16] for b in symbols for c in symbols][: 1 << 16]
    monkeypatch.setattr(token_files, "make_tokenizer", lambda *_: BytePairTokenizer("large", merges))
    data = prepared(stories)
    assert data.train.dtype == np.uint32
    assert data.train[0] == data.tokenizer.eos_id > 1 << 16


def test_provenance_is_json_and_the_summary_tells_the_counts(stories):
    data = prepared(stories)
    assert json.loads(json.dumps(data.provenance)) == data.provenance
    assert data.fingerprint in summary(data)
    assert f"{len(data.held_out):,} tokens" in summary(data)
    assert sample(data).startswith(documents(data, "held_out")[0][:20])


def test_a_sample_of_text_cannot_send_escape_codes_to_the_terminal(tmp_path):
    (tmp_path / "a.txt").write_text("\x1b[31mred\x9b\n" * 30)
    assert "\x1b" not in sample(prepared(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"tokenizer": "bpe4096"}, "unknown tokenizer 'bpe4096'"),
        ({"held_out": 0.0}, "held_out is 0"),
        ({"held_out": 1.0}, "held_out is 1"),
        ({"sample_bytes": 0}, "sample_bytes is 0"),
        ({"sample_bytes": 2}, "too short"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(stories, settings, complaint):
    with pytest.raises(BadInput, match=complaint):
        prepared(stories, **settings)


@pytest.mark.parametrize("held_out", [math.nan, math.inf, -math.inf, "much"])
def test_a_share_that_is_no_number_makes_no_settings(held_out):
    with pytest.raises(ValidationError):
        DataSettings(held_out=held_out)


def test_a_corpus_of_white_space_is_refused(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n" * 100)
    with pytest.raises(BadInput, match=r"blank\.txt' contains only white space"):
        prepared(tmp_path / "blank.txt")


def test_a_corpus_that_changes_while_it_is_read_is_not_kept(stories, own_cache):
    def change(line):
        if line.startswith("reading"):
            (stories / "39.txt").write_text("changed, after its content was hashed")

    with pytest.raises(BadInput, match="changed while it was read"):
        prepared(stories, log=change)
    assert not [path for path in (own_cache / "tokens").iterdir() if path.is_dir()]


def test_an_empty_corpus_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(BadInput, match=r"empty\.txt' is empty"):
        prepared(tmp_path / "empty.txt")


FILES = ["train.bin", "held_out.bin", "tokenizer.json", "provenance.json", MANIFEST]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "."])
@pytest.mark.parametrize("damage", ["cut", "empty", "delete", "garble", "folder", "other numbers"])
def test_token_files_damaged_in_any_way_are_made_again_as_they_were(stories, own_cache, name, damage):
    whole = prepared(stories)
    (folder,) = (path for path in (own_cache / "tokens").iterdir() if path.is_dir())
    victim = folder / name
    if victim.is_dir():
        shutil.rmtree(victim)
    else:
        content = victim.read_bytes()
        victim.unlink()
    made = {"cut": lambda: content[:-2], "empty": bytes, "garble": lambda: b"{", "other numbers": lambda: content[::-1]}
    if damage in made and name != ".":
        victim.write_bytes(made[damage]())
    elif damage == "folder":
        victim.mkdir()
    elif damage != "delete":
        folder.write_text("a file where the folder belongs")
    lines = []
    again = prepared(stories, log=lines.append)
    assert again.fingerprint == whole.fingerprint
    assert np.array_equal(again.train, whole.train)
    assert again.provenance == whole.provenance
    assert name == "." or any("is damaged" in line and "made again" in line for line in lines)


def test_a_prepared_corpus_does_not_stand_for_equal_bytes_that_are_read_otherwise(tmp_path):
    packed, misnamed = tmp_path / "a.txt.gz", tmp_path / "b.txt"
    packed.write_bytes(gzip.compress(b"a line of text\n" * 200, mtime=1))
    misnamed.write_bytes(packed.read_bytes())
    prepared(packed)
    with pytest.raises(BadInput, match="NUL bytes"):
        prepared(misnamed)
    plain, promised = tmp_path / "c.txt", tmp_path / "d.txt.gz"
    plain.write_bytes(b"a line of text\n" * 200)
    promised.write_bytes(plain.read_bytes())
    prepared(plain)
    with pytest.raises(BadInput, match="damaged gzip"):
        prepared(promised)


KEYS_OF_0_1 = {
    ("notes.txt", "bytes"): "e106b1862896e545ae1e1d1f05296fbca4f2e5641a5e4955b98314e5eae9aad8",
    ("notes.txt", "bpe-300"): "3a059cb8d10f2ae51f216809b639d1b35578285a8039d4adbc30be03cafb573a",
    ("rows.jsonl", "bytes"): "ba676b34ec351565ef5d8bd872eac90a1198489d43af0a2cfcc969dc1b4d706e",
    ("rows.csv:body", "bytes"): "350fab9c8896f2c42c1d631b3a4ccd70a5744be0f42ed6bcfb51b838323bba27",
}
"""Names of the cache entries that the first version made of the corpora below."""


@pytest.mark.parametrize(("corpus", "tokenizer"), KEYS_OF_0_1)
def test_a_corpus_that_the_first_version_prepared_is_found(corpus, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("One line of text.\nAnd another, with é and 漢字.\n" * 40, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"text": "document {i} of twenty", "n": {i}}}\n' for i in range(20))
    )
    (tmp_path / "rows.csv").write_text("id,body\n" + "".join(f"{i},the body of row {i}\n" for i in range(20)))
    monkeypatch.chdir(tmp_path)
    prepared(corpus, tokenizer)
    assert (cache_folder() / "tokens" / KEYS_OF_0_1[corpus, tokenizer]).is_dir()
