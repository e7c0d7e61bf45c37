"""Tokenizers of Hugging Face's own making: read as they are, or refused in a sentence."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from litmus.data import DataSettings, load_tokenizer, prepare
from litmus.data.tokens.hf_tokenizer import read_hf_tokenizer
from litmus.errors import BadInput

TEXT = ["the cat sat on the mat, the café cat 猫 sat\n    again and again, 1234567 times\n" * 20]
CUTS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def like_llama3() -> Backend:
    """Cut by a pattern, special tokens behind the merges, and a token before each text."""
    backend = Backend(models.BPE(ignore_merges=True))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUTS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    backend.add_special_tokens([AddedToken("<begin>", special=True), AddedToken("<end>", special=True)])
    backend.add_tokens(["    "])
    return backend


BACKEND = like_llama3()


@pytest.fixture
def folder(tmp_path):
    BACKEND.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<end>"}}')
    return tmp_path


@pytest.mark.slow
@given(text=st.text() | st.sampled_from([*TEXT, "<end> <begin>", "cafe\u0301"]))
def test_any_text_comes_back_as_it_was_and_its_bytes_are_counted(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    BACKEND.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    tokenizer = read_hf_tokenizer(folder / "tokenizer.json")
    ids = tokenizer.encode(text)
    normal = unicodedata.normalize("NFC", text)  # as the tokenizer's own normalizer has it
    assert tokenizer.decode(ids) == normal
    assert tokenizer.token_bytes[ids].sum() == len(normal.encode())
    assert not {*tokenizer.special.values()} & {*ids}


def test_text_is_cut_as_the_library_cuts_it(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode(TEXT[0]) == BACKEND.encode(TEXT[0], add_special_tokens=False).ids
    assert tokenizer.vocab_size == BACKEND.get_vocab_size()
    assert len(tokenizer.encode("1234567")) < 7 and BACKEND.token_to_id("    ") in tokenizer.encode("a    b")


def test_a_saved_one_loads_as_what_it_was(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    (tmp_path / "again").mkdir()
    tokenizer.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert (again.name, again.pieces, again.eos_id) == (tokenizer.name, tokenizer.pieces, tokenizer.eos_id)
    assert again.encode(TEXT[0]) == tokenizer.encode(TEXT[0])


def test_the_files_beside_it_say_which_token_ends_a_document(folder):
    end, begin = BACKEND.token_to_id("<end>"), BACKEND.token_to_id("<begin>")
    assert load_tokenizer(folder).eos_id == end
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"eos_token_id": [begin, end]}))
    assert load_tokenizer(folder).eos_id == begin
    (folder / "config.json").unlink()
    with pytest.raises(BadInput, match="no special token that ends a document; name it as eos_token"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "its model is 'Unigram'"),
        ({"pre_tokenizer": None}, "does not cut text into bytes"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel"}]}},
         "'Whitespace' may lose characters"),
        ({"normalizer": {"type": "Lowercase"}}, "'Lowercase' changes the text"),
    ],
)  # fmt: skip
def test_what_would_not_give_a_text_back_is_refused_in_a_sentence(change, reason, folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadInput, match=reason) as refused:
        load_tokenizer(folder)
    assert "only BPE that keeps every byte of a text is valid" in str(refused.value)


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"a": 1}'])
def test_a_file_that_is_no_tokenizer_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_corpus_is_prepared_in_the_tokens_of_a_file_and_again_when_the_file_changes(folder, stories):
    data = prepare(DataSettings(corpus=str(stories), tokenizer=str(folder)))
    assert data.tokenizer.pieces == load_tokenizer(folder).pieces
    by_path = prepare(DataSettings(corpus=str(stories), tokenizer=str(folder / "tokenizer.json")))
    assert by_path.fingerprint == data.fingerprint
    saved = json.loads((folder / "tokenizer.json").read_text())
    changed = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({**saved, "pre_tokenizer": changed}))
    assert prepare(DataSettings(corpus=str(stories), tokenizer=str(folder))).fingerprint != data.fingerprint


def test_a_folder_without_one_is_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match="no tokenizer in"):
        prepare(DataSettings(tokenizer=str(tmp_path)))
