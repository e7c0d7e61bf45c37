"""From settings to token data: the one call that the rest of Litmus makes to get text to train on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from litmus.bounds import MAX_FILE_BYTES
from litmus.data.cache import built_once, cache_folder
from litmus.data.corpora import resolve
from litmus.data.locations import printable
from litmus.data.progress import Announce, silent
from litmus.data.token_files import FORMAT, TokenData, open_token_files, write_token_files
from litmus.data.tokenizers import check_tokenizer_name, made_from
from litmus.errors import BadInput, shown


class DataSettings(BaseModel):
    """What to train and score on."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    corpus: str = Field("stdlib", description="a named corpus, a file, folder or glob, or hf:NAME:SPLIT:COLUMN")
    tokenizer: str = Field("bpe-4096", description="bytes, bpe-N (learned from the train split), gpt2 or a file")
    held_out: float = Field(0.1, description="share of the corpus's bytes that is held out, between 0 and 1")
    sample_bytes: int | None = Field(None, description="use only the first so many bytes of the corpus")


def prepare(settings: DataSettings, *, announce: Announce | None = None) -> TokenData:
    """The token data that `settings` ask for, from the cache or newly made.

    The cache key is the sha256 of what makes the data: the contents of the corpus's files, the tokenizer, the
    share held out and the sample. Lines about what is going on go to `announce`; BadInput for settings or a
    corpus that cannot be used.
    """
    say = announce or silent
    _check(settings)
    corpus = resolve(settings.corpus, sample_bytes=settings.sample_bytes, announce=say)
    versions = corpus.versions()
    made_of = {
        "format": FORMAT,
        "contents": corpus.contents(say),
        "tokenizer": made_from(settings.tokenizer),
        "held_out": settings.held_out,
        "sample_bytes": settings.sample_bytes,
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def build(folder: Path) -> None:
        options = settings.model_dump(exclude={"corpus"})
        write_token_files(folder, corpus, **options, key=key, announce=say)
        if corpus.versions() != versions:
            raise BadInput(f"the corpus {shown(settings.corpus)} changed while it was read; nothing of it was kept")

    data = open_token_files(built_once(cache_folder() / "tokens" / key, build, say), corpus)
    if without := data.provenance["rows_without_text"]:
        column = " and ".join(map(shown, data.provenance["columns"]))
        say(f"{printable(settings.corpus)}: {without} rows without text in the column {column} were left out")
    if bad := data.provenance["bad_utf8_replaced"]:
        say(f"{printable(settings.corpus)}: {bad} invalid UTF-8 sequences were replaced by U+FFFD")
    return data


def _check(settings: DataSettings) -> None:
    check_tokenizer_name(settings.tokenizer)
    if not 0 < settings.held_out < 1:
        raise BadInput(f"held_out is {settings.held_out:g}; it must be a share between 0 and 1, such as 0.1")
    if settings.sample_bytes is not None and not 1 <= settings.sample_bytes <= MAX_FILE_BYTES:
        raise BadInput(f"sample_bytes is {shown(settings.sample_bytes)}; it must be from 1 to {MAX_FILE_BYTES}")
