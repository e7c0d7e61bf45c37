"""What `litmus data` prints about prepared data."""

from __future__ import annotations

import numpy as np

from litmus.data.locations import printable
from litmus.data.progress import readable_bytes
from litmus.data.token_files import SPLITS, TokenData

SAMPLE_TOKENS = 200


def summary(data: TokenData) -> str:
    """Counts, bytes per token, how the split was made, and the fingerprint, one fact a line."""
    made = data.provenance
    total_bytes, total_tokens = sum(made["bytes"].values()), sum(made["tokens"].values())
    taken = "all of it" if made["sample_bytes"] is None else f"the first {made['sample_bytes']} bytes"
    facts = {
        "corpus": f"{printable(made['corpus'])}: {made['source']}, {taken}",
        **({"column": ", ".join(map(printable, made["columns"]))} if made["columns"] else {}),
        "tokenizer": f"{made['tokenizer']}, {made['vocab_size']} tokens",
        **{split: _counts(data, split) for split in SPLITS},
        "split": f"{made['split']}, {made['bytes']['held_out'] / total_bytes:.1%} of the bytes held out",
        "bytes per token": f"{total_bytes / total_tokens:.3f}",
        "bad UTF-8": f"{made['bad_utf8_replaced']} sequences replaced",
        **({"left out": f"{made['rows_without_text']} rows without text"} if made["rows_without_text"] else {}),
        "fingerprint": data.fingerprint,
    }
    return "\n".join(f"{name:<16} {fact}" for name, fact in facts.items())


def sample(data: TokenData) -> str:
    """The beginning of the held-out text, a line of dashes between documents; no character can upset a terminal."""
    first = data.held_out[len(data.tokenizer.prefix) : SAMPLE_TOKENS]
    documents = np.split(first, np.flatnonzero(first == data.tokenizer.end))
    text = "\n-----\n".join(data.tokenizer.decode(ids.tolist()) for ids in documents)
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _counts(data: TokenData, split: str) -> str:
    documents, size, tokens = (data.provenance[what][split] for what in ("documents", "bytes", "tokens"))
    return f"{documents:,} documents, {readable_bytes(size)}, {tokens:,} tokens"
