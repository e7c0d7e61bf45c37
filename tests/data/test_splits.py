import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litmus.data.text.documents import Piece
from litmus.data.tokens.splits import decide_split
from litmus.errors import BadInput


def pieces(texts):
    return [Piece(i, text.encode(), 0) for i, text in enumerate(texts)]


def sides(texts, held_out=0.1):
    """For every document, "train" or "held_out"."""
    return [split for split, _ in decide_split(pieces(texts), held_out).place(pieces(texts))]


def random_texts(count, seed=0):
    draw = random.Random(seed)
    return [f"{i} " + "x" * int(draw.expovariate(1 / 200)) for i in range(count)]


@pytest.mark.parametrize("held_out", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("count", [40, 400])
def test_whole_documents_make_up_about_the_share_of_bytes(held_out, count):
    texts = random_texts(count)
    held = sum(len(text) for text, side in zip(texts, sides(texts, held_out), strict=True) if side == "held_out")
    assert held / sum(map(len, texts)) == pytest.approx(held_out, rel=0.35 if count == 40 else 0.05)


def test_of_ten_equal_documents_a_tenth_is_one():
    assert sides([f"document {i}" for i in range(10)]).count("held_out") == 1


def test_held_out_documents_come_from_everywhere():
    where = [i for i, side in enumerate(sides(random_texts(400))) if side == "held_out"]
    assert min(where) < 60
    assert max(where) > 340


def test_copies_of_a_document_are_on_the_same_side():
    texts = random_texts(200)
    both = sides([*texts, *reversed(texts)])
    assert both[:200] == both[200:][::-1]


@pytest.mark.parametrize("count", [100, 250])
def test_a_sample_does_not_reshuffle_the_split(count):
    texts = random_texts(500)
    changed = sum(a != b for a, b in zip(sides(texts[:count]), sides(texts), strict=False))
    assert changed <= 0.04 * count


def test_the_order_of_documents_does_not_decide():
    texts = random_texts(100)
    shuffled = random.Random(1).sample(texts, len(texts))
    assert dict(zip(texts, sides(texts), strict=True)) == dict(zip(shuffled, sides(shuffled), strict=True))


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=9), st.floats(0.01, 0.99))
def test_few_documents_are_cut_in_one_place_between_two_characters(texts, held_out):
    split = decide_split(pieces(texts), held_out)
    placed = list(split.place(pieces(texts)))
    assert split.rule == "contiguous"
    order = [side for side, _ in placed]
    assert order == sorted(order, reverse=True)
    train = b"".join(piece.text for side, piece in placed if side == "train").decode()
    held = b"".join(piece.text for side, piece in placed if side == "held_out").decode()
    assert train + held == "".join(texts)
    assert 0 <= split.bytes * (1 - held_out) - len(train.encode()) + 0.5 <= 4.5
    assert all(piece.text for _, piece in placed)


def test_ten_documents_of_which_one_is_nearly_everything_are_cut_in_one_place():
    texts = ["x" * 100_000, *random_texts(11)]
    assert decide_split(pieces(texts), 0.4).rule == "contiguous"


@pytest.mark.parametrize("held_out", [0.05, 0.1, 0.5, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("others", [[], ["another"], ["x" * 5000]])
def test_equal_documents_leave_something_on_both_sides(held_out, others):
    texts = [*["the same sentence again and again"] * 11, *others]
    assert {side for side, _ in decide_split(pieces(texts), held_out).place(pieces(texts))} == {"train", "held_out"}


def test_more_documents_than_were_counted_are_noticed():
    texts = random_texts(30)
    split = decide_split(pieces(texts), 0.1)
    with pytest.raises(BadInput, match="changed while it was read"):
        list(split.place(pieces([*texts, "one more"])))


def test_white_space_alone_is_noticed():
    assert decide_split(pieces([" \n", "\t"] * 9), 0.1).blank
    assert not decide_split(pieces([" \n", "\t", "a "]), 0.1).blank


def test_the_pass_counts_documents_bytes_and_replaced_sequences():
    split = decide_split([Piece(0, b"ab", 1), Piece(0, b"c", 0), Piece(1, b"d", 2)], 0.1)
    assert (split.documents, split.bytes, split.bad_utf8) == (2, 4, 3)
