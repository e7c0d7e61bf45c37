"""Data: corpora, tokenizers, token files, training batches and evaluation windows."""

from litmus.data.corpora import NAMED
from litmus.data.preparation import DataSettings, prepare
from litmus.data.sampler import Batch, Sampler
from litmus.data.summary import sample, summary
from litmus.data.token_files import TokenData
from litmus.data.tokenizer import Tokenizer
from litmus.data.tokenizers import load_tokenizer
from litmus.data.windows import document_ids, held_out_windows

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
