"""Data: from the name of a corpus to token files, training batches and evaluation windows.

What needs PyTorch is in `litmus.data.sampler`: corpora are listed and prepared without it.
"""

from litmus.data.chat.preparation import masked_window
from litmus.data.preparation import DataSettings, data_settings_from, prepare, sample, summary
from litmus.data.text.corpora import NAMED
from litmus.data.tokens.make_tokenizer import load_tokenizer
from litmus.data.tokens.token_files import TokenData
from litmus.data.tokens.tokenizer import Tokenizer

__all__ = [
    "NAMED",
    "DataSettings",
    "TokenData",
    "Tokenizer",
    "data_settings_from",
    "load_tokenizer",
    "masked_window",
    "prepare",
    "sample",
    "summary",
]
