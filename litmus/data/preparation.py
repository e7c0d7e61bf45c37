"""From settings to token data: `prepare`, and the summary that `litmus data` prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from litmus.bounds import MAX_FILE_BYTES
from litmus.data.cache import build_once, cache_folder
from litmus.data.messages import Log, no_log, printable, readable_bytes
from litmus.data.text.corpora import resolve
from litmus.data.tokens.make_tokenizer import check_tokenizer_name, tokenizer_key
from litmus.data.tokens.token_files import FORMAT, SPLITS, TokenData, open_token_files, write_token_files
from litmus.errors import BadInput, shown
from litmus.files import sha256

SAMPLE_TOKENS = 200


class DataSettings(BaseModel):
    """The corpus, the tokenizer and the split."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    corpus: str = Field("stdlib", description="a named corpus, a file, folder or glob, or hf:NAME:SPLIT:COLUMN")
    tokenizer: str = Field("bpe-4096", description="bytes, bpe-N (learned from the train split), gpt2 or a file")
    held_out: float = Field(0.1, description="fraction of the corpus's bytes that is held out, between 0 and 1")
    sample_bytes: int | None = Field(None, description="use only this many bytes from the beginning of the corpus")


def prepare(settings: DataSettings, *, log: Log | None = None) -> TokenData:
    """The token data for `settings`, from the cache or newly made.

    The cache key is the sha256 of everything that determines the data: the contents of the corpus's files, the
    tokenizer, the held-out fraction and the sample size. Progress goes to `log`, by default nowhere. BadInput for
    settings or a corpus that cannot be used.
    """
    log = log or no_log
    _check(settings)
    corpus = resolve(settings.corpus, sample_bytes=settings.sample_bytes, log=log)
    versions = corpus.versions()
    made_of = {
        "format": FORMAT,
        "contents": corpus.contents(log),
        "tokenizer": tokenizer_key(settings.tokenizer),
        "held_out": settings.held_out,
        "sample_bytes": settings.sample_bytes,
    }
    key = sha256(json.dumps(made_of, sort_keys=True).encode())

    def build(folder: Path) -> None:
        options = settings.model_dump(exclude={"corpus"})
        write_token_files(folder, corpus, **options, key=key, log=log)
        if corpus.versions() != versions:
            raise BadInput(f"the corpus {shown(settings.corpus)} changed while it was read; nothing of it was kept")

    data = open_token_files(build_once(cache_folder() / "tokens" / key, build, log), corpus)
    if without := data.provenance["rows_without_text"]:
        column = " and ".join(map(shown, data.provenance["columns"]))
        log(f"{printable(settings.corpus)}: {without} rows without text in the column {column} were skipped")
    if bad := data.provenance["bad_utf8_replaced"]:
        log(f"{printable(settings.corpus)}: {bad} invalid UTF-8 sequences were replaced by U+FFFD")
    return data


def _check(settings: DataSettings) -> None:
    check_tokenizer_name(settings.tokenizer)
    if not 0 < settings.held_out < 1:
        raise BadInput(f"held_out is {settings.held_out:g}; it must be a fraction between 0 and 1, such as 0.1")
    if settings.sample_bytes is not None and not 1 <= settings.sample_bytes <= MAX_FILE_BYTES:
        raise BadInput(f"sample_bytes is {shown(settings.sample_bytes)}; it must be from 1 to {MAX_FILE_BYTES}")


def summary(data: TokenData) -> str:
    """Counts, bytes per token, the split rule and the fingerprint, one per line."""
    made = data.provenance
    total_bytes, total_tokens = sum(made["bytes"].values()), sum(made["tokens"].values())
    taken = "all of it" if made["sample_bytes"] is None else f"the first {made['sample_bytes']} bytes"
    lines = {
        "corpus": f"{printable(made['corpus'])}: {made['source']}, {taken}",
        **({"column": ", ".join(map(printable, made["columns"]))} if made["columns"] else {}),
        "tokenizer": f"{made['tokenizer']}, {made['vocab_size']} tokens",
        **{split: _counts(data, split) for split in SPLITS},
        "split": f"{made['split']}, {made['bytes']['held_out'] / total_bytes:.1%} of the bytes held out",
        "bytes per token": f"{total_bytes / total_tokens:.3f}",
        "bad UTF-8": f"{made['bad_utf8_replaced']} sequences replaced",
        **({"skipped": f"{made['rows_without_text']} rows without text"} if made["rows_without_text"] else {}),
        "fingerprint": data.fingerprint,
    }
    return "\n".join(f"{name:<16} {value}" for name, value in lines.items())


def sample(data: TokenData) -> str:
    """The beginning of the held-out text, with a line of dashes between documents and no control characters."""
    first = data.held_out[len(data.tokenizer.prefix) : SAMPLE_TOKENS]
    documents = np.split(first, np.flatnonzero(first == data.tokenizer.eos_id))
    text = "\n-----\n".join(data.tokenizer.decode(ids.tolist()) for ids in documents)
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _counts(data: TokenData, split: str) -> str:
    documents, size, tokens = (data.provenance[what][split] for what in ("documents", "bytes", "tokens"))
    return f"{documents:,} documents, {readable_bytes(size)}, {tokens:,} tokens"
