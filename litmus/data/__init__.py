"""Data: corpora, tokenizers, token files, training batches and evaluation windows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litmus.data.corpora import NAMED
    from litmus.data.preparation import DataSettings, prepare
    from litmus.data.report import sample, summary
    from litmus.data.sampler import Batch, Sampler
    from litmus.data.token_files import TokenData
    from litmus.data.tokenizer import Tokenizer
    from litmus.data.tokenizers import load_tokenizer
    from litmus.data.windows import document_ids, held_out_windows

_WHERE = {
    "corpora": ["NAMED"],
    "preparation": ["DataSettings", "prepare"],
    "report": ["sample", "summary"],
    "sampler": ["Batch", "Sampler"],
    "token_files": ["TokenData"],
    "tokenizer": ["Tokenizer"],
    "tokenizers": ["load_tokenizer"],
    "windows": ["document_ids", "held_out_windows"],
}
_MODULE_OF = {name: f"litmus.data.{module}" for module, names in _WHERE.items() for name in names}

__all__ = [
    "NAMED",
    "Batch",
    "DataSettings",
    "Sampler",
    "TokenData",
    "Tokenizer",
    "document_ids",
    "held_out_windows",
    "load_tokenizer",
    "prepare",
    "sample",
    "summary",
]


def __getattr__(name: str) -> Any:
    """Import a module when something of it is used: corpora are listed, and prepared, without torch."""
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'litmus.data' has no attribute {name!r}")
