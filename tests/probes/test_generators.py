"""Each probe can be solved from what stands before an answer, and shows a test nothing that was trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from litmus.errors import BadInput
from litmus.probes import PROBES, probe_named
from litmus.probes.addition import DIGIT, EQUALS, PLUS, Addition, is_test
from litmus.probes.kth_token import KthToken
from litmus.probes.memorization import Memorization
from litmus.probes.needle import ASK, NEEDLE
from litmus.probes.probe import BLANK, NOT_SCORED, Probe
from litmus.probes.state_tracking import Permutations, elements

NAMES = list(PROBES)
LARGE = {"kth_token": "kth_token:length=17,vocab=40", "passkey": "passkey:digits=8"}
"""Options with so many possible examples that none occurs twice by chance."""


def last_pair(probe: Probe, seen: list[int]) -> int:
    """The token that followed the last token at its earlier time."""
    return seen[seen.index(seen[-1]) + 1]


def after_mark(probe: Probe, seen: list[int]) -> int:
    mark = seen.index(1)
    return [token for token in seen[:mark] if token != BLANK][len(seen) - 1 - mark]


def fuzzy(probe: Probe, seen: list[int]) -> int:
    half = probe.vocab // 2
    pairs: dict[tuple[int, ...], list[int]] = {}
    key: list[int] = []
    value: list[int] = []
    for token in seen:
        if token >= half:
            value.append(token)
            continue
        if value:
            pairs.setdefault(tuple(key), value)
            key, value = [], []
        key.append(token)
    return pairs[tuple(key)][len(value)]


def noisy(probe: Probe, seen: list[int]) -> int:
    pairs = dict(zip(seen[:-1:2], seen[1::2], strict=True))
    return pairs[seen[-1]]


def kth(probe: Probe, seen: list[int]) -> int:
    assert isinstance(probe, KthToken)
    return seen[probe.k - 1]


def read_at(probe: Probe, seen: list[int]) -> int:
    return seen[seen[-1] - 1]


def by_heart(probe: Probe, seen: list[int]) -> int:
    assert isinstance(probe, Memorization)
    return int(probe.table[seen[-1] - 1])


def needle(probe: Probe, seen: list[int]) -> int:
    assert seen[-2] == ASK
    found = [at for at, token in enumerate(seen) if token == NEEDLE and seen[at + 1] == seen[-1]]
    return seen[found[0] + 2]


def passkey(probe: Probe, seen: list[int]) -> int:
    return seen[seen.index(NEEDLE) + len(seen) - seen.index(ASK)]


def periodic(probe: Probe, seen: list[int]) -> int:
    return next(seen[-p] for p in range(1, len(seen)) if seen[p:] == seen[:-p])


def add(probe: Probe, seen: list[int]) -> int:
    assert isinstance(probe, Addition)
    this = seen[len(seen) // probe.width * probe.width :]
    plus, equals = this.index(PLUS), this.index(EQUALS)
    a, b = (sum((t - DIGIT) * 10**at for at, t in enumerate(n)) for n in (this[:plus], this[plus + 1 : equals]))
    return DIGIT + (a + b) // 10 ** (len(this) - equals - 1) % 10


def odd(probe: Probe, seen: list[int]) -> int:
    return 3 + sum(token - 1 for token in seen) % 2


def product(probe: Probe, seen: list[int]) -> int:
    assert isinstance(probe, Permutations)
    group = elements(probe.n).tolist()
    state = list(range(probe.n))
    for token in seen:
        state = [group[token - 1][at] for at in state]
    return 1 + len(group) + group.index(state)


ORACLES: dict[str, Callable[[Probe, list[int]], int]] = {
    "mqar": last_pair,
    "selective_copying": after_mark,
    "induction": last_pair,
    "noisy_induction": noisy,
    "fuzzy_induction": fuzzy,
    "copying": after_mark,
    "kth_token": kth,
    "compression": read_at,
    "memorization": by_heart,
    "needle": needle,
    "passkey": passkey,
    "length_generalization": periodic,
    "addition": add,
    "parity": odd,
    "permutations": product,
}


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_that_sees_only_what_stands_before_gives_every_answer(name: str) -> None:
    probe = probe_named(name)
    answers = 0
    for length in probe.test_lengths:
        inputs, targets = probe.batch(3, "test", 0, 16, length)
        assert inputs.shape == targets.shape == (16, length)
        for row, place in np.argwhere(targets != NOT_SCORED):
            assert ORACLES[name](probe, inputs[row, : place + 1].tolist()) == targets[row, place]
            answers += 1
    assert answers >= 16 * len(probe.test_lengths)


@pytest.mark.parametrize("name", NAMES)
def test_train_and_test_share_no_example(name: str) -> None:
    probe = probe_named(LARGE.get(name, name))
    rows = {
        (split, seed, number): {row.tobytes() for row in probe.batch(seed, split, number, 200)[0]}
        for split in ("train", "test")
        for seed, number in ((0, 0), (0, 1), (1, 0))
    }
    assert sum(map(len, rows.values())) == len(set().union(*rows.values())) == 1200


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_a_function_of_seed_split_and_number(name: str) -> None:
    probe = probe_named(name)
    for first, again in zip(probe.batch(5, "train", 7, 8), probe_named(name).batch(5, "train", 7, 8), strict=True):
        assert (first == again).all()


@pytest.mark.parametrize("name", NAMES)
def test_only_answers_are_scored_and_all_tokens_are_of_the_vocabulary(name: str) -> None:
    probe = probe_named(name)
    inputs, targets = probe.batch(0, "train", 0, 64)
    scored = targets != NOT_SCORED
    assert inputs.min() >= 0 and max(inputs.max(), targets.max()) < probe.vocab
    assert (targets[scored] != BLANK).all()
    assert scored.any(axis=1).all()
    if name not in ("parity", "permutations"):  # in the others an answer is the next token of the input
        assert (inputs[:, 1:][scored[:, :-1]] == targets[:, :-1][scored[:, :-1]]).all()
        assert not scored.all(axis=1).any()


def test_fillers_of_mqar_are_blanks_and_every_key_is_asked_once() -> None:
    probe = probe_named("mqar")
    inputs, targets = probe.batch(0, "train", 0, 200)
    for row, answers in zip(inputs, targets, strict=True):
        keys = row[:8:2].tolist()
        asked = row[answers != NOT_SCORED].tolist()
        assert sorted(asked) == sorted(keys) and len(set(keys)) == 4
        rest = row[8:].tolist()
        assert [token for token in rest if token in keys] == asked
        assert set(rest) <= {BLANK, *keys, *row[1:8:2].tolist()}


def test_fillers_of_the_needle_are_neither_keys_nor_values() -> None:
    inputs, _ = probe_named("needle").batch(0, "test", 0, 64, 320)
    third = (48 - 3) // 3
    kinds = (inputs - 3) // third
    assert ((inputs == NEEDLE).sum(axis=1) == 2).all()
    assert ((inputs >= 3) & (kinds == 1)).sum(axis=1).tolist() == [3] * 64  # two needles and the question
    assert ((inputs >= 3) & (kinds == 2)).sum(axis=1).tolist() == [2] * 64


def test_noise_of_noisy_induction_is_of_tokens_of_its_own() -> None:
    probe = probe_named("noisy_induction")
    inputs, targets = probe.batch(0, "train", 0, 64)
    assert (inputs >= 24).any()
    assert (targets < 24).all()


def test_gaps_of_mqar_fall_off_with_distance() -> None:
    _, targets = probe_named("mqar:length=128,pairs=4").batch(0, "train", 0, 500)
    places = np.argwhere(targets != NOT_SCORED)[:, 1]
    near, far = (places < 38).sum(), ((places >= 68) & (places < 98)).sum()
    assert near > 3 * far > 0


def test_pairs_of_summands_are_in_one_split_only() -> None:
    probe = probe_named("addition:digits=2,length=200")
    for split, expected in (("train", False), ("test", True)):
        inputs, _ = probe.batch(0, split, 0, 64)
        sums = inputs[:, : 200 // 9 * 9].reshape(64, -1, 9)[:, :20] - DIGIT
        a, b = sums[..., 0] + 10 * sums[..., 1], sums[..., 3] + 10 * sums[..., 4]
        assert (is_test(a, b) == expected).all()
        assert len(np.unique(a * 100 + b)) > 500


def test_sums_have_carries() -> None:
    _, targets = probe_named("addition").batch(0, "train", 0, 64)
    last = targets[:, 11 - 1]
    assert 0.3 < (last == DIGIT + 1).mean() < 0.7  # the highest digit is the carry


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mqrr", "unknown probe 'mqrr'; did you mean 'mqar'?"),
        ("mqar:length=8", "probe mqar: length = 8 is too short for these options; valid are 16 or more"),
        ("mqar:vocab=6", "probe mqar: vocab = 6 is too small for these options; valid are 10 or more"),
        ("mqar:pairz=2", "probe mqar: unknown key 'pairz'; did you mean 'pairs'?"),
        ("mqar:pairs", "probe mqar: 'pairs' is no option; valid is KEY=VALUE, such as length=64"),
        ("addition:vocab=5", "probe addition: vocab = 5 is too small for these options; valid are 13 or more"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=f"^{sentence.replace('?', '[?]')}"):
        probe_named(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_with_all_options_names_the_same_probe(name: str) -> None:
    assert probe_named(probe_named(name).to_name()) == probe_named(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_least_length_and_vocabulary_that_are_valid_can_be_drawn(name: str) -> None:
    def valid(options: str) -> bool:
        try:
            probe_named(f"{name}:{options}")
        except BadInput:
            return False
        return True

    length = next(n for n in range(1, 200) if valid(f"vocab=200,length={n}"))
    vocab = next(n for n in range(1, 200) if valid(f"length={length},vocab={n}"))
    probe = probe_named(f"{name}:length={length},vocab={vocab}")
    inputs, targets = probe.batch(0, "train", 0, 50)
    assert inputs.shape == (50, length)
    assert max(inputs.max(), targets.max()) < vocab and inputs.min() >= 0
    assert (targets != NOT_SCORED).any()
