"""From settings to token data: `prepare`, and the summary that `litmus data` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litmus.bounds import MAX_FILE_BYTES
from litmus.data.cache import build_once, cache_folder
from litmus.data.chat.preparation import card, prepare_threads
from litmus.data.chat.reading import ThreadSettings
from litmus.data.messages import Log, no_log, printable, readable_bytes
from litmus.data.text.corpora import resolve
from litmus.data.tokens.make_tokenizer import check_tokenizer_name, tokenizer_key
from litmus.data.tokens.token_files import FORMAT, SPLITS, TokenData, open_token_files, write_token_files
from litmus.errors import BadInput, first_fault, shown
from litmus.files import sha256

SAMPLE_TOKENS = 200
THREADS, THREADS_HELD_OUT = "threads:", 0.3
"""The beginning of the name of a corpus of threads, and the share of them that is held out."""


class DataSettings(BaseModel):
    """The corpus, the tokenizer and the split."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    corpus: str = Field("stdlib", description="a named corpus, a file, folder or glob, or hf:NAME:SPLIT:COLUMN")
    tokenizer: str = Field("bpe-4096", description="bytes, bpe-N (learned from the train split), gpt2 or a file")
    held_out: float = Field(0.1, description="fraction of the corpus's bytes that is held out, between 0 and 1")
    sample_bytes: int | None = Field(None, description="use only this many bytes from the beginning of the corpus")
    chat: ThreadSettings | None = Field(None, description="how threads become windows; only of a corpus threads:SOURCE")

    @model_validator(mode="before")
    @classmethod
    def _fit_threads(cls, given: Any) -> Any:
        """Threads have settings of their own, and by default a larger share of them is held out."""
        if not isinstance(given, dict):
            return given
        if str(given.get("corpus", "")).startswith(THREADS):
            return {"held_out": THREADS_HELD_OUT, **given, "chat": given.get("chat") or ThreadSettings()}
        if given.get("chat") is not None:
            raise ValueError(f"chat options are for threads; name the corpus as {THREADS}SOURCE, or leave them out")
        return given

    def for_context(self, context: int) -> DataSettings:
        """The settings in which windows of threads have at most `context` tokens, unless their size is set."""
        if self.chat is None or self.chat.max_tokens is not None:
            return self
        return self.model_copy(update={"chat": self.chat.model_copy(update={"max_tokens": context})})


def data_settings_from(options: Mapping[str, Any]) -> DataSettings:
    """DataSettings of the options that are not None; BadInput names the first one that is unknown or out of range."""
    try:
        return DataSettings.model_validate({key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        raise BadInput(f"data option {first_fault(error, DataSettings)}") from None


def prepare(settings: DataSettings, *, log: Log | None = None) -> TokenData:
    """The token data for `settings`, from the cache or newly made.

    The cache key is the sha256 of everything that determines the data: the contents of the corpus's files, the
    tokenizer, the held-out fraction and the sample size. Progress goes to `log`, by default nowhere. BadInput for
    settings or a corpus that cannot be used.
    """
    log = log or no_log
    _check(settings)
    if settings.chat is not None:
        how = settings.model_dump(include={"tokenizer", "held_out", "sample_bytes"})
        return prepare_threads(settings.corpus.removeprefix(THREADS), settings.chat, **how, log=log)
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
        options = settings.model_dump(include={"tokenizer", "held_out", "sample_bytes"})
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
    if settings.corpus.startswith("probe:"):
        named = shown(settings.corpus)
        raise BadInput(
            f"{named} is a synthetic task and no text; litmus probe and litmus compare train and score on it"
        )
    check_tokenizer_name(settings.tokenizer)
    if not 0 < settings.held_out < 1:
        raise BadInput(f"held_out is {settings.held_out:g}; it must be a fraction between 0 and 1, such as 0.1")
    if settings.sample_bytes is not None and not 1 <= settings.sample_bytes <= MAX_FILE_BYTES:
        raise BadInput(f"sample_bytes is {shown(settings.sample_bytes)}; it must be from 1 to {MAX_FILE_BYTES}")


def summary(data: TokenData) -> str:
    """Counts, bytes per token, the split rule and the fingerprint, one per line."""
    made = data.provenance
    if data.windows is not None:
        return card(data)
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
