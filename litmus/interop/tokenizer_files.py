"""Tokenizers as Hugging Face files: Litmus's byte-level ones have an exact form there, and are recognized in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from litmus.data import Tokenizer
from litmus.data.tokenizers import BytePairTokenizer, ByteTokenizer
from litmus.errors import BadInput
from litmus.interop.folder import write_json

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
END = "<|endoftext|>"
GPT2_MERGES = 50_000


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> dict[str, Any]:
    """Write tokenizer.json and its settings; returns what config.json says of it.

    A text is encoded with the end token before it, which is how documents begin in training and generation.
    """
    merges = tokenizer.merges if isinstance(tokenizer, BytePairTokenizer) else []
    backend = Backend(models.BPE(vocab=_vocabulary(tokenizer), merges=[_pair(line) for line in merges]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    backend.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, tokenizer.end)])
    backend.save(str(folder / FILE))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / SETTINGS, settings)
    return {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model folder where it is one of Litmus's forms, None where it has none at all."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        model, before = saved["model"], saved["pre_tokenizer"] or {}
        merges = [line if isinstance(line, str) else " ".join(line) for line in model["merges"]]
        vocabulary = {**model["vocab"], **{token["content"]: token["id"] for token in saved.get("added_tokens", [])}}
    except (ValueError, KeyError, TypeError):
        raise BadInput(
            f"{path}: only byte-level BPE has a form in Litmus; --bytes takes one token per byte instead"
        ) from None
    plain = before.get("use_regex", True) and not before.get("add_prefix_space") and not saved.get("normalizer")
    if before.get("type") == "ByteLevel" and plain:
        for known in _candidates(merges):
            own = _vocabulary(known)
            ends = [token for token, number in vocabulary.items() if number == known.end]
            if ends and vocabulary == {**own, ends[0]: known.end}:
                return known
    raise BadInput(
        f"{path} orders its {len(vocabulary)} tokens in another way than 256 bytes, then one per merge, then the end "
        f"token, which is the form that Litmus has; --bytes takes one token per byte instead"
    )


def _candidates(merges: list[str]) -> list[Tokenizer]:
    if not merges:
        return [ByteTokenizer(), BytePairTokenizer("bpe-257", [])]
    size = BytePairTokenizer("", merges).vocab_size
    return [BytePairTokenizer("gpt2" if len(merges) == GPT2_MERGES else f"bpe-{size}", merges)]


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of each token but the end token, written in GPT-2's notation for bytes."""
    return {"".join(SYMBOLS[byte] for byte in piece): number for number, piece in enumerate(tokenizer.pieces[:-1])}


def _symbols() -> list[str]:
    """GPT-2's symbol for each byte: a byte that is a printable Latin-1 character is its own, the others follow."""
    single = BytePairTokenizer("", [])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [alphabet[single.pieces.index(bytes([byte]))] for byte in range(256)]


SYMBOLS = _symbols()


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split(" ")
    return left, right
