"""What every window of every thread must be, whatever is said in it."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from litmus.data import data_settings_from, prepare
from litmus.data.chat.reading import ThreadSettings
from litmus.data.chat.template import ChatTemplate, named_speakers, template_of
from litmus.data.chat.threads import Thread, ThreadTurn
from litmus.data.chat.windows import WindowSettings, WindowWriter, with_pseudonyms
from litmus.data.tokens.hf_tokenizer import read_hf_tokenizer
from litmus.data.tokens.token_files import Windows
from litmus.data.tokens.tokenizer import END_NAME, BytePairTokenizer, ByteTokenizer, byte_of_symbol
from litmus.errors import BadInput

BYTES = ByteTokenizer()
MERGES = [" ".join(pair) for pair in (("Ġ", "a"), ("<", "|"), ("|", ">"), (":", "Ġ"), ("a", "b"), (":", "Ġa"))]
OWN = [BYTES, BytePairTokenizer("bpe-263", MERGES)]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
CHATML = (
    "{%- for message in messages %}\n"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# Pieces of what people write, of control tokens, and of what templates write.
PIECES = [
    *"ab :|<>\n",
    " ",
    END_NAME,
    "<|im_end|>",
    "<|im_start|>",
    "<|",
    "|>",
    "im_end",
    "ä",
    "😀",
    "Bob:",
    "assistant",
]
TEXT = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join).map(str.strip).filter(bool)
AUTHORS = ["Ann", "Bob", "<|endoftext|>", "x:y", "<|im_end|> Bob"]
TURNS = st.lists(st.tuples(st.sampled_from(AUTHORS), TEXT), min_size=2, max_size=9)


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    """A published tokenizer with ChatML, and its template."""
    folder = tmp_path_factory.mktemp("chatml")
    backend = Backend(models.BPE(vocab={symbol: n for n, symbol in enumerate(sorted(byte_of_symbol()))}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": CHATML}))
    tokenizer = read_hf_tokenizer(folder / "tokenizer.json")
    return tokenizer, template_of(folder, tokenizer)


def thread_of(said, number=7):
    return Thread(number, [ThreadTurn(author, None, text, f"line {n}") for n, (author, text) in enumerate(said, 1)])


def written(folder, threads, tokenizer=BYTES, template=None, **options):
    """The windows of threads in memory, and their counts."""
    how = WindowSettings.of(ThreadSettings(**options), with_roles=False)
    counts = WindowWriter(how, template or named_speakers(), tokenizer).write(folder, "train", iter(threads), print)
    kinds = {"tokens": np.uint16, "scored": np.bool_, "starts": "<i8", "threads": "<i8"}
    return Windows(*(np.fromfile(folder / f"train.{part}.bin", kind) for part, kind in kinds.items())), counts


def messages_in(ids, tokenizer):
    """Window of the template of named speakers -> its messages, read back from the tokens alone."""
    ends = [place for place, token in enumerate(ids) if token == tokenizer.eos_id]
    assert ends[0] == 0, "a window begins with the token that begins a text, once"
    texts = [tokenizer.decode(ids[a + 1 : b]) for a, b in zip(ends, [*ends[1:], len(ids)], strict=True)]
    return [tuple(text.split(": ", 1)) for text in texts if text]


@settings(max_examples=60)
@given(said=TURNS, window=st.integers(0, 4), tokenizer=st.sampled_from(OWN))
def test_windows_hold_the_thread_and_labels_are_the_targets_and_their_ends(tmp_path_factory, said, window, tokenizer):
    folder = tmp_path_factory.mktemp("windows")
    windows, counts = written(folder, [thread_of(said)], tokenizer, window=window)
    expected = [said] if window == 0 else [said[i - window : i + 1] for i in range(window, len(said))]
    assert counts.windows == len(windows) == len(expected)
    for number, members in enumerate(expected):
        ids, scored = windows.window(number)
        assert messages_in(ids, tokenizer) == members, "decoding the window gives the thread back"
        assert np.count_nonzero(ids == tokenizer.eos_id) == len(members) + 1, "no content makes a control token"
        targets = members if window == 0 else members[-1:]
        pieces = np.split(np.flatnonzero(scored), np.flatnonzero(np.diff(np.flatnonzero(scored)) > 1) + 1)
        trained = [ids[piece].tolist() for piece in pieces]
        assert [tokenizer.decode(span) for span in trained] == [f" {text}" for _, text in targets]
        assert all(span[-1] == tokenizer.eos_id and span.count(tokenizer.eos_id) == 1 for span in trained)
    assert counts.targets + counts.targets_too_early == len(said)


@settings(max_examples=60)
@given(said=TURNS, window=st.integers(1, 4))
def test_the_ids_of_training_are_those_that_a_chat_sends(tmp_path_factory, chatml, said, window):
    tokenizer, template = chatml
    for words, form in ((tokenizer, template), (BYTES, named_speakers()), (OWN[1], named_speakers())):
        windows, _ = written(tmp_path_factory.mktemp("windows"), [thread_of(said)], words, form, window=window)
        for number, target in enumerate(range(window, len(said))):
            ids, scored = windows.window(number)
            author, text = said[target]
            before = [
                {"role": "assistant" if name == author else "user", "content": content, "name": name}
                for name, content in said[target - window : target]
            ]
            start = int(np.flatnonzero(scored)[0])
            assert form.encode(before, words, reply_name=author) == ids[:start].tolist()
            reply = ids[start:].tolist()
            assert scored[start:].all() and words.decode(reply).strip() == text
            assert reply[-1] in form.stops(words)[0], "the generation stops at what was trained"
            control = [token for token in ids.tolist() if token in words.special.values()]
            assert len(control) == (2 * (window + 1) if words is tokenizer else window + 2)


@settings(max_examples=40)
@given(said=TURNS, limit=st.integers(16, 60), head=st.booleans(), window=st.integers(0, 4))
def test_windows_that_do_not_fit_lose_whole_messages_from_the_left(tmp_path_factory, said, limit, head, window):
    options = {"max_tokens": limit, "max_target": 8, "keep_head": head, "window": window}
    windows, counts = written(tmp_path_factory.mktemp("windows"), [thread_of(said)], **options)
    assert counts.targets + counts.targets_too_early + counts.targets_without_context == len(said)
    assert counts.terminators_trained == counts.targets - counts.targets_truncated
    assert counts.target_tokens == np.count_nonzero(windows.scored)
    for number in range(len(windows)):
        ids, scored = windows.window(number)
        assert len(ids) - 1 <= limit and scored[-1]
        *context, _ = messages_in(ids, BYTES)
        rest = context[1:] if head and context and context[0] == said[0] else context
        places = [at for at in range(len(said)) if said[at : at + len(rest)] == rest]
        assert places, "what is left of the context is whole messages, one after the other"
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate(([0], scored.astype(int), [0])))))[::2]
        assert runs.max() <= 8


def test_a_target_that_is_cut_is_counted_and_its_end_is_not_trained(tmp_path):
    windows, counts = written(tmp_path, [thread_of([("a", "hi"), ("b", "x" * 50)])], window=1, max_target=10)
    ids, scored = windows.window(0)
    assert (counts.targets_truncated, counts.terminators_trained, counts.target_tokens) == (1, 0, 10)
    assert scored[-10:].all() and scored.sum() == 10 and BYTES.decode(ids[-10:]) == " " + "x" * 9


def test_targets_by_author_and_the_last_turn(tmp_path):
    said = [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")]
    for targets, expected in (("author:b", "24"), ("last", "4"), ("every", "1234")):
        windows, _ = written(tmp_path, [thread_of(said)], window=0, targets=targets)
        assert BYTES.decode(windows.tokens[windows.scored]).replace(" ", "") == expected


def test_pseudonyms_replace_authors_and_where_they_are_named():
    said = [("bob2", "hi ann-k"), ("ann-k", "bob2: hello, bob23"), ("bob2", "ok")]
    turns = with_pseudonyms(thread_of(said)).turns
    assert [(turn.author, turn.text) for turn in turns] == [
        ("User1", "hi User2"),
        ("User2", "User1: hello, bob23"),
        ("User1", "ok"),
    ]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{{ eos_token }}{% endfor %}", None),
        (
            "{% for m in messages %}{{ m.content | truncate(2, true, '', 0) }}{{ eos_token }}{% endfor %}",
            "changes or leaves out",
        ),
        ("{{ messages[-1].content }}{{ eos_token }}", "changes or leaves out the contents of messages.*line 3"),
        ("{{ raise_exception('roles must alternate') }}", "line 3: .*roles must alternate"),
        (
            "{% for m in messages %}{{ m.name }}: {{ m.content }}{{ eos_token }}{% endfor %}",
            "begins a reply in a chat otherwise",
        ),
    ],
)
def test_templates_whose_replies_are_not_known_are_refused(tmp_path, source, sentence):
    threads, template = [thread_of([("a", "one"), ("b", "two"), ("c", "three")])], ChatTemplate(source)
    if sentence is None:
        assert written(tmp_path, threads, template=template, window=2)[1].windows == 1
        return
    with pytest.raises(BadInput, match=sentence):
        written(tmp_path, threads, template=template, window=2)


def prepared(path, **chat):
    return prepare(data_settings_from({"corpus": f"threads:{path}", "tokenizer": "bytes", "chat": chat or None}))


def test_windows_cross_no_thread_and_no_split(rows, write):
    data = prepared(write(rows))
    seen = Counter()
    for windows in data.windows.values():
        for number in range(len(windows)):
            said = messages_in(windows.window(number)[0], data.tokenizer)
            own = {text.split()[-1].split(".")[0] for _, text in said}
            assert len(said) == 5 and len(own) == 1
            seen[own.pop()] += 1
        threads = [int(thread) for thread in windows.threads]
        assert threads == sorted(threads)
    assert seen == Counter({str(number): 4 for number in range(12)})
    owners = [set(windows.threads.tolist()) for windows in data.windows.values()]
    assert len(set.union(*owners)) == sum(map(len, owners)) == 12


@pytest.mark.parametrize(
    ("chat", "sentence"),
    [
        ({"targets": "author:nobody"}, "the train split has no turn to train on: targets = 'author:nobody'"),
        ({"targets": "role:assistant"}, "has no turn to train on"),
        ({"window": 8}, "chooses none with 8 messages before it"),
        ({"max_target": 2}, "holds the control token that ends it .* are cut at max_target = 2"),
        ({"template": "legacy.json"}, "no target of the train split holds the control token that ends it"),
    ],
)
def test_data_from_which_nothing_or_no_end_is_learned_is_refused(rows, write, chat, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "legacy.json").write_text("{}")
    with pytest.raises(BadInput, match=sentence):
        prepared(write(rows), **chat)


def test_the_same_threads_and_options_are_prepared_once(rows, write, own_cache):
    path = write(rows)
    first, again, other = prepared(path), prepared(path), prepared(path, window=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert len(list((own_cache / "threads").glob("*"))) == 1, "what was cleaned serves both"
    assert len(list((own_cache / "tokens").glob("*"))) == 2
    rows[0]["message"] += " more"
    assert prepared(write(rows)).fingerprint != first.fingerprint
