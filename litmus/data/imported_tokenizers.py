"""Tokenizers read from a tokenizer.json of Hugging Face: byte-level BPE, as of GPT-2, Llama 3 and DeepSeek."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from litmus.data.tokenizer import FILE_NAME, Tokenizer, byte_of_symbol
from litmus.errors import BadInput

SETTINGS, MODEL_CONFIG = "tokenizer_config.json", "config.json"
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>")
"""What published tokenizers call the token that ends a document, where no file beside them says it."""


class ImportedTokenizer(Tokenizer):
    """A tokenizer whose cutting and merges are those of `file`, the content of a tokenizer.json.

    Special tokens are never read out of a text, nor is a text normalized: what is encoded decodes to itself.
    """

    def __init__(self, name: str, file: dict[str, Any], end: int):
        self.file = file
        super().__init__(name, _pieces(file), end)
        unused = {"normalizer": None, "post_processor": None, "truncation": None, "padding": None}
        self._backend = Backend.from_str(json.dumps({**file, **unused}))
        self._backend.encode_special_tokens = True  # as the text they are written in

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _details(self) -> dict[str, Any]:
        return {"file": self.file, "end": self.end}


def read_imported(path: Path) -> ImportedTokenizer:
    """The tokenizer of a tokenizer.json; the files beside it say which token ends a document.

    BadInput for any other form than byte-level BPE, and for one that would not give back a text as it was.
    """
    file = _json(path)
    if reason := _obstacle(file):
        raise BadInput(f"{path}: {reason}; only byte-level BPE that keeps every byte of a text is valid")
    try:
        return ImportedTokenizer(path.resolve().parent.name, file, _end(path.parent, file))
    except BadInput:
        raise
    except Exception as error:  # the library raises plain Exception
        raise BadInput(f"{path} cannot be loaded by the tokenizers library: {error}") from None


def _pieces(file: dict[str, Any]) -> list[bytes]:
    """The bytes of each token id; special tokens, and ids that no token has, hold none."""
    byte_of = byte_of_symbol()
    added = file.get("added_tokens", [])
    bytes_of = {number: bytes(byte_of.get(char, 0) for char in text) for text, number in file["model"]["vocab"].items()}
    bytes_of |= {token["id"]: b"" if token["special"] else token["content"].encode() for token in added}
    return [bytes_of.get(number, b"") for number in range(max(bytes_of) + 1)]


def _obstacle(file: dict[str, Any]) -> str | None:
    """What keeps this from being byte-level BPE whose tokens spell out exactly the text."""
    model, normalizer, added = file.get("model") or {}, file.get("normalizer"), file.get("added_tokens", [])
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')!r}"
    before = file.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    if not any(step.get("type") == "ByteLevel" for step in steps):
        return "it does not cut text into bytes"
    for step in steps:
        kind = step.get("type")
        if kind not in ("ByteLevel", "Split", "Digits") or step.get("behavior") == "Removed":
            return f"its pre-tokenizer {kind!r} may lose characters"
        if step.get("add_prefix_space"):
            return "it puts a space before a text"
    # Composing characters is left out: it changes few texts, and those would not come back as they were.
    kinds = [step["type"] for step in (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])]
    if other := [kind for kind in kinds if kind != "NFC"]:
        return f"its normalizer {other[0]!r} changes the text"
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "its merges are random, or mark parts of words"
    if any(not token["special"] and (token["lstrip"] or token["rstrip"]) for token in added):
        return "an added token takes the spaces beside it"
    special = {token["content"] for token in added if token["special"]}
    symbols = byte_of_symbol()
    if not set(symbols) <= set(model["vocab"]):
        return "it has no token for some bytes"
    odd = next((text for text in model["vocab"] if text not in special and not set(text) <= set(symbols)), None)
    return None if odd is None else f"its token {odd!r} is not written in bytes"


def _end(folder: Path, file: dict[str, Any]) -> int:
    """The id of the token that ends a document: as the settings say, or the model's config, or by its usual name."""
    special = {token["content"]: token["id"] for token in file.get("added_tokens", []) if token["special"]}
    said = _json(folder / SETTINGS).get("eos_token") if (folder / SETTINGS).is_file() else None
    name = said.get("content") if isinstance(said, dict) else said
    if name in special:
        return special[name]
    configured = _json(folder / MODEL_CONFIG).get("eos_token_id") if (folder / MODEL_CONFIG).is_file() else None
    number = configured[0] if isinstance(configured, list) and configured else configured
    if isinstance(number, int) and number in special.values():
        return number
    if known := [special[name] for name in ENDS if name in special]:
        return known[0]
    raise BadInput(
        f"{folder / FILE_NAME} has no special token that ends a document; name it as eos_token in {SETTINGS} beside it"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} must hold a JSON mapping, found {type(content).__name__}")
    return content
