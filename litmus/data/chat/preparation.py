"""From the source of threads to token data: read and clean, encode windows, and the data card of both."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from litmus.data.cache import build_once, cache_folder, content_hash
from litmus.data.chat.near_duplicates import MIN_WORDS
from litmus.data.chat.parallel import write_windows
from litmus.data.chat.reading import ThreadSettings
from litmus.data.chat.template import ChatTemplate, named_speakers, read_template, template_of
from litmus.data.chat.threads import THREAD_SPLITS, Threads, write_threads
from litmus.data.chat.windows import PARTS, WindowSettings, WindowWriter, check_trainable
from litmus.data.json_files import read_json
from litmus.data.messages import Log, printable
from litmus.data.text.corpora import row_files
from litmus.data.text.files import compression_of, version
from litmus.data.tokens.make_tokenizer import load_tokenizer, make_tokenizer, tokenizer_file, tokenizer_key
from litmus.data.tokens.token_files import TokenData, Windows, token_dtype
from litmus.data.tokens.tokenizer import Tokenizer
from litmus.errors import BadInput
from litmus.files import sha256, write_atomically

FORMAT = 1
"""Increment when the reading, cleaning, splitting or encoding of threads changes."""
TEMPLATE_FILE, CARD = "chat_template.jinja", "card.json"


def prepare_threads(
    source: str,
    settings: ThreadSettings,
    *,
    tokenizer: str,
    held_out: float,
    sample_bytes: int | None,
    log: Log,
) -> TokenData:
    """The token data of the threads in `source` (a file, folder, pattern or hf:NAME:SPLIT), from the cache or new.

    Both stages are kept, the cleaned threads and their windows, so that what changes only the second reads nothing
    again. BadInput for a source without threads, or whose targets a model could not learn to write and to end.
    """
    files = row_files(source, sample_bytes, log)
    versions = [version(path) for path, _ in files]
    reading = {"thread_column", "time_column", "author_column", "text_column", "time_format", "min_messages", "seed"}
    read = {
        "format": FORMAT,
        "contents": [(form + compression_of(path), content_hash(path, log)) for path, form in files],
        "settings": settings.model_dump(include=reading),
        "held_out": held_out,
        "sample_bytes": sample_bytes,
    }

    def clean(folder: Path) -> None:
        write_threads(folder, files, settings, held_out=held_out, sample_bytes=sample_bytes, log=log)
        if [version(path) for path, _ in files] != versions:
            raise BadInput(f"{printable(source)} changed while it was read; nothing of it was kept")

    threads_key = _key(read)
    threads = Threads(build_once(cache_folder() / "threads" / threads_key, clean, log))
    how = WindowSettings.of(settings, threads.counts["with_roles"])
    given = None if settings.template is None else read_template(Path(settings.template))
    template = given or _own_template(tokenizer) or named_speakers()
    encoded = {
        "threads": threads_key,
        "tokenizer": tokenizer_key(tokenizer),
        "template": template.source,
        "window": [how.window, how.targets.kind, sorted(how.targets.names), how.keep_head, how.pseudonyms],
        "tokens": [how.max_tokens, how.max_target],
    }

    def encode(folder: Path) -> None:
        words = make_tokenizer(tokenizer, lambda: _train_text(threads), _train_bytes(threads), log)
        _write_windows(folder, threads, how, template, words, printable(source), log)

    key = _key(encoded)
    folder = build_once(cache_folder() / "tokens" / key, encode, log)
    return _opened(folder, source, threads.counts, key)


def _write_windows(
    folder: Path, threads: Threads, how: WindowSettings, template: ChatTemplate, words: Tokenizer, where: str, log: Log
) -> None:
    words.save(folder)
    write_atomically(folder / TEMPLATE_FILE, template.source)
    writer = WindowWriter(how, template, words)
    splits = {}
    for split in THREAD_SPLITS:
        counts = write_windows(folder, split, threads, writer, log)
        check_trainable(counts, split, how, template, where)
        splits[split] = counts.to_dict()
    card = {
        "tokenizer": words.name,
        "vocab_size": words.vocab_size,
        "window": how.window,
        "targets": str(how.targets),
        "max_tokens": how.max_tokens,
        "max_target": how.max_target,
        "windows": splits,
    }
    write_atomically(folder / CARD, json.dumps(card, indent=1))


def _opened(folder: Path, source: str, counts: dict[str, Any], key: str) -> TokenData:
    """Memory-map the windows that were written."""
    words = load_tokenizer(folder)
    kinds: tuple[Any, ...] = (token_dtype(words), "?", "<i8", "<i8")
    windows = {
        split: Windows(
            *(
                np.memmap(folder / f"{split}.{part}.bin", kind, mode="r")
                for part, kind in zip(PARTS, kinds, strict=True)
            )
        )
        for split in THREAD_SPLITS
    }
    card = read_json(folder / CARD)
    provenance = {
        "corpus": f"threads:{source}",
        "source": "threads",
        "split": "by thread",
        **counts,
        **card,
        "tokens": {split: len(found.tokens) for split, found in windows.items()},
        "key": key,
    }
    template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    return TokenData(
        windows["train"].tokens, windows["held_out"].tokens, words, sha256(key.encode()), provenance, windows, template
    )


def card(data: TokenData) -> str:
    """The data card of threads, one line for each of its counts."""
    made = data.provenance
    splits = made["windows"]
    dropped = sum(made["dropped"].values())
    lines = {
        "corpus": printable(made["corpus"]),
        "rows": f"{made['rows']:,} read = {sum(made['messages'].values()):,} messages kept + {dropped:,} dropped",
        **{f"  {reason}": f"{count:,}" for reason, count in sorted(made["dropped"].items())},
        **{f"  {what}": f"{count:,}" for what, count in made["cleaned"].items() if count},
        "times": ", ".join(made["times"]) or "none: the order of conversations",
        "authors": f"{made['authors']:,}",
        "a thread has": "{shortest} to {longest} messages, median {median}".format(**made["messages_in_a_thread"]),
        "near-duplicates": f"{made['compared_for_near_duplicates']:,} messages of {MIN_WORDS} or more words compared",
        "tokenizer": f"{made['tokenizer']}, {made['vocab_size']} tokens",
        "window": (f"{made['window']} messages and a target" if made["window"] else "whole threads")
        + f", at most {made['max_tokens']} tokens",
        "target turns": f"{made['targets']}, at most {made['max_target']} tokens of each",
        **{split: _split_line(made, split) for split in splits},
        **{f"{split} targets": _target_line(counts) for split, counts in splits.items()},
        "fingerprint": data.fingerprint,
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def masked_window(data: TokenData, number: int, split: str = "train") -> list[tuple[str, bool]]:
    """The text of a window in pieces, each with whether it is trained on; control tokens are pieces of their own.

    BadInput for a corpus without threads, and for a number beyond the windows of the split.
    """
    if data.windows is None:
        raise BadInput(f"{printable(data.provenance['corpus'])} has no loss mask: every token of a text is trained on")
    windows = data.windows[split]
    if not 0 <= number < len(windows):
        raise BadInput(f"there is no window {number}; the {split} split has windows 0 to {len(windows) - 1}")
    ids, scored = windows.window(number)
    names = {token: name for name, token in data.tokenizer.special.items()}
    pieces: list[tuple[str, bool]] = []
    for (control, trained), run in groupby(
        zip(ids.tolist(), scored.tolist(), strict=True), key=lambda one: (names.get(one[0]), one[1])
    ):
        tokens = [token for token, _ in run]
        pieces += [(control, trained)] * len(tokens) if control else [(data.tokenizer.decode(tokens), trained)]
    return pieces


def _split_line(made: dict[str, Any], split: str) -> str:
    counts = made["windows"][split]
    lengths = counts["tokens_in_a_window"]
    return (
        f"{made['threads'][split]:,} threads, {made['messages'][split]:,} messages, {counts['windows']:,} windows of "
        f"{lengths['median']} tokens (median; {lengths['p95']} at 95 %, {lengths['longest']} at most), "
        f"{counts['tokens']:,} tokens"
    )


def _target_line(counts: dict[str, Any]) -> str:
    share = counts["target_tokens"] / counts["tokens"]
    left_out = counts["targets_too_early"] + counts["targets_without_context"]
    return (
        f"{counts['targets']:,}, {share:.0%} of the tokens; {counts['terminators_trained']:,} with the control token "
        f"that ends them, {counts['targets_truncated']:,} truncated; {left_out:,} left out: "
        f"{counts['targets_too_early']:,} too early in their thread, {counts['targets_without_context']:,} after a "
        f"message that does not fit"
    )


def _own_template(tokenizer: str) -> ChatTemplate | None:
    """The chat template of a tokenizer that is given by a run, a model folder or a file; None if it has none."""
    file = tokenizer_file(tokenizer)
    if file is None:
        return None
    folder = Path(tokenizer) if Path(tokenizer).is_dir() else file.parent
    return template_of(folder, load_tokenizer(file.parent))


def _train_text(threads: Threads) -> Any:
    return (f"{turn.author or turn.role}: {turn.text}\n" for thread in threads.of("train") for turn in thread.turns)


def _train_bytes(threads: Threads) -> int:
    return sum(len(text.encode()) for text in _train_text(threads))


def _key(made_of: dict[str, Any]) -> str:
    return sha256(json.dumps(made_of, sort_keys=True).encode())
