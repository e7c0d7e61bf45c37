"""Text as it grows: whole characters, whole words, and no trace of a stop string."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from litmus.data.tokens.tokenizer import BytePairTokenizer, ByteTokenizer
from litmus.errors import BadInput
from litmus.generation import IncrementalDetokenizer

BYTES = ByteTokenizer()
PAIRS = BytePairTokenizer("toy", ["Ġ t", "h e", "Ġt he", "Ã ¤", "a n", "an d", "ð Ł", "ðŁ ĺ"])
tokenizers = st.sampled_from([BYTES, PAIRS])
texts = st.text(st.sampled_from("abn dthe\n äöß€😀漢"), max_size=20)


def pieces(stream: IncrementalDetokenizer, tokens: list[int]) -> list[str]:
    return [stream.feed(token) for token in tokens] + [stream.finish()]


@given(tokenizers, texts)
def test_the_pieces_of_a_text_make_up_the_text(tokenizer: BytePairTokenizer, text: str) -> None:
    found = pieces(IncrementalDetokenizer(tokenizer), tokenizer.encode(text))
    assert "".join(found) == text
    assert "\ufffd" not in "".join(found[:-1])


@given(st.data(), tokenizers)
def test_the_pieces_of_any_tokens_make_up_what_decode_gives(data: st.DataObject, tokenizer: BytePairTokenizer) -> None:
    tokens = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    assert "".join(pieces(IncrementalDetokenizer(tokenizer), tokens)) == tokenizer.decode(tokens)


def test_a_character_appears_when_its_last_byte_has_come() -> None:
    assert pieces(IncrementalDetokenizer(BYTES), BYTES.encode("a😀b")) == ["a", "", "", "", "😀", "b", ""]
    assert pieces(IncrementalDetokenizer(BYTES), BYTES.encode("ä")[:1]) == ["", "\ufffd"]


@given(tokenizers, texts, st.lists(texts.filter(bool).map(lambda text: text[:4]), max_size=3))
@example(BYTES, "aab", ["ab"])
@example(BYTES, "abab!", ["abac", "bab!"])
def test_a_text_ends_before_the_first_stop_string(tokenizer: BytePairTokenizer, text: str, stop: list[str]) -> None:
    stream, shown = IncrementalDetokenizer(tokenizer, stop), [""]
    for token in tokenizer.encode(text):
        shown.append(shown[-1] + stream.feed(token))
        if stream.stopped:
            break
    shown.append(shown[-1] + stream.finish())
    places = [place for one in stop if (place := text.find(one)) >= 0]
    # What a token completes may hold several stop strings; before it, only the earliest to be complete is known.
    complete = [place + len(one) for one in stop if (place := text.find(one)) >= 0]
    assert stream.stopped == bool(places)
    assert text.startswith(shown[-1])
    assert not any(one in shown[-1] for one in stop)
    if places:
        assert min(places) <= len(shown[-1]) <= max(places) and len(shown[-1]) < min(complete)
    else:
        assert shown[-1] == text
    assert all(after.startswith(before) for before, after in pairwise(shown))


def test_an_end_that_may_begin_a_stop_string_is_held_back_and_no_more() -> None:
    assert pieces(IncrementalDetokenizer(BYTES, ["END"]), BYTES.encode("xENxE")) == ["x", "", "", "ENx", "", "E"]


def test_of_several_stop_strings_in_one_token_the_first_ends_the_text() -> None:
    tokens = PAIRS.encode("band")
    assert [PAIRS.pieces[token] for token in tokens] == [b"b", b"and"]
    assert pieces(IncrementalDetokenizer(PAIRS, ["d", "nd"]), tokens) == ["b", "a", ""]


def test_nothing_comes_after_the_stop_string() -> None:
    stream = IncrementalDetokenizer(BYTES, ["."])
    assert pieces(stream, BYTES.encode("a.b")) == ["a", "", "", ""]
    assert stream.stopped


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(BadInput, match="an empty stop string would stop everything"):
        IncrementalDetokenizer(BYTES, ["a", ""])
