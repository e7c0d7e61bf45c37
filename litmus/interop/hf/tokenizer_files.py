"""Tokenizers as Hugging Face files: Litmus's own are written as byte-level BPE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from litmus.data import Tokenizer
from litmus.data.tokens.hf_tokenizer import ImportedTokenizer
from litmus.data.tokens.hf_tokenizer_files import SETTINGS
from litmus.data.tokens.tokenizer import END_NAME, FILE_NAME, BytePairTokenizer, byte_of_symbol
from litmus.interop.hf.folder import write_json


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> dict[str, Any]:
    """Write tokenizer.json and the files next to it; returns the keys of config.json about the tokenizer.

    Litmus's own tokenizers put the end token before a text, as documents begin in training and generation. An imported
    one is written as it was read, with all its side files.
    """
    end = END_NAME
    if isinstance(tokenizer, ImportedTokenizer):
        content = json.dumps(tokenizer.file, indent=2, ensure_ascii=False)
        (folder / FILE_NAME).write_text(content, encoding="utf-8")
        for name, content in tokenizer.side_files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, str):
                path.write_bytes(content.encode())
            else:
                write_json(path, content)
        if tokenizer.around is not None:
            begin = tokenizer.around.bos
            ids = {} if begin is None else {"bos_token_id": begin}
            stops = list(tokenizer.stop_ids)
            return {**ids, "eos_token_id": stops if len(stops) > 1 else stops[0]}
        end = next(name for name, number in tokenizer.special.items() if number == tokenizer.eos_id)
    else:
        (folder / FILE_NAME).write_text(_backend(tokenizer).to_str(pretty=True), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / SETTINGS, settings)
    return {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}


def _backend(tokenizer: Tokenizer) -> Backend:
    merges = tokenizer.merges if isinstance(tokenizer, BytePairTokenizer) else []
    backend = Backend(models.BPE(vocab=_vocabulary(tokenizer), merges=[_pair(line) for line in merges]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_NAME, special=True, normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{END_NAME} $A", special_tokens=[(END_NAME, tokenizer.eos_id)]
    )
    return backend


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of each token except the end token, in GPT-2's notation for bytes."""
    symbols = {byte: symbol for symbol, byte in byte_of_symbol().items()}
    return {"".join(symbols[byte] for byte in piece): number for number, piece in enumerate(tokenizer.pieces[:-1])}


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split(" ")
    return left, right
