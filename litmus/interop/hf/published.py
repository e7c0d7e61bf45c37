"""A model as others publish it, and as Litmus has it: recipe, tensors, and what an export needs of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from litmus.data import Tokenizer
from litmus.data.json_files import read_json
from litmus.data.messages import Log
from litmus.data.tokens.hf_tokenizer import read_hf_tokenizer
from litmus.data.tokens.hf_tokenizer_files import GENERATION_CONFIG
from litmus.data.tokens.tokenizer import FILE_NAME, ByteTokenizer
from litmus.errors import BadInput
from litmus.generation.generation_config import generation_defaults
from litmus.interop.hf.config import Config
from litmus.interop.hf.folder import dtypes_of, read_config, read_tensors
from litmus.interop.hf.registry import adapter_of, meta_decoder
from litmus.interop.hf.state_dict_mapping import from_hf
from litmus.model import Recipe
from litmus.model.recipe import validated
from litmus.model.storage import weights
from litmus.training.run.config import Imported

BYTES = ByteTokenizer()
MAX_BYTE_VOCABULARY = 512
"""Largest vocabulary of a model of bytes, which may have unused rows; larger ones have other tokens."""


@dataclass(frozen=True)
class Published:
    """The content of config.json and generation_config.json, and the tensors by their names in a Hugging Face folder.

    origin: the folder or file, for messages.
    """

    origin: str
    config: Config
    tensors: dict[str, Tensor]
    generation_config: dict[str, Any] | None = None

    def to_litmus(self, name: str) -> tuple[Recipe, dict[str, Tensor], Imported]:
        """The recipe called `name`, the tensors by Litmus's names in fp32, and what an export needs of the rest."""
        adapter = adapter_of(self.config)
        theirs = {adapter.map_key(key): tensor for key, tensor in self.tensors.items()}
        found = {key: tensor for key, tensor in theirs.items() if key is not None}
        about = f"Imported from a {adapter.architecture}."
        recipe = validated({"name": name, "about": about, **adapter.to_recipe(self.config, found)})
        model = meta_decoder(recipe)
        mapping, scales = adapter.state_dict_mapping(model), adapter.tensor_scales(self.config)
        tensors = from_hf(mapping, found, weights(model), self.origin, scales)
        dtype, dtypes = dtypes_of(found)
        imported = Imported(
            architecture=adapter.architecture,
            dtype=dtype,
            dtypes=dtypes,
            config=dict(self.config),
            written=adapter.hf_config(model),
            generation_config=self.generation_config,
        )
        return recipe, tensors, imported


def read_folder(folder: Path) -> Published:
    """The model of a Hugging Face folder, safetensors only."""
    config, path = read_config(folder), folder / GENERATION_CONFIG
    adapter_of(config)  # an unknown architecture is refused before its tensors are read
    generation = read_json(path) if path.is_file() else None
    if generation is not None:
        generation_defaults(generation, str(path))
    return Published(str(folder), config, read_tensors(folder), generation)


def read_model(folder: Path, *, name: str) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a model folder and its tensors by Litmus's names, in fp32."""
    recipe, tensors, _ = read_folder(folder).to_litmus(name)
    return recipe, tensors


def read_folder_tokenizer(folder: Path, vocab_size: int, use_bytes: bool, log: Log) -> Tokenizer:
    """The tokenizer of a model folder; with `use_bytes`, or without a file, one token per byte where that may fit."""
    path = folder / FILE_NAME
    count = _vocabulary(path) if path.is_file() else 0
    plausible = count in (0, BYTES.vocab_size) and BYTES.vocab_size <= vocab_size <= MAX_BYTE_VOCABULARY
    if path.is_file() and not use_bytes:
        try:
            return read_hf_tokenizer(path)
        except BadInput as error:
            way_out = "; --bytes takes one token per byte instead" if plausible else ""
            raise BadInput(f"{error}{way_out}") from None
    if not plausible:
        own = f"{count} tokens in {FILE_NAME}" if count else f"a model of {vocab_size} tokens"
        advice = "leave out --bytes" if path.is_file() else f"put the tokenizer's {FILE_NAME} next to the weights"
        raise BadInput(f"{folder} has a vocabulary of its own, {own}, which are not bytes; {advice}")
    if not path.is_file():
        log(f"{folder} has no {FILE_NAME}: the run takes one token per byte, which the model may not know")
    return ByteTokenizer()


def _vocabulary(path: Path) -> int:
    """Number of tokens in a tokenizer.json of any kind; 0 if it lists none."""
    try:
        model = read_json(path).get("model")
    except BadInput:
        return 0
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return len(vocabulary) if isinstance(vocabulary, dict | list) else 0
