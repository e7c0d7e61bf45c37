"""A Hugging Face model folder on disk: config.json and safetensors, in one file or several with an index."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from litmus.data.json_files import Declared, checked, read_json
from litmus.errors import BadInput, shown
from litmus.interop.hf.state_dict_mapping import DTYPES

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Index(Declared):
    """model.safetensors.index.json: the file of each tensor."""

    weight_map: dict[str, str]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; quantized weights are refused."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {str(folder)!r}; give a folder with {CONFIG} and {WEIGHTS}")
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{folder} is not a Hugging Face model: it has no {CONFIG}")
    config = read_json(folder / CONFIG)
    for key in ("quantization_config", "compression_config"):
        if quantization := config.get(key):
            method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
            raise BadInput(
                f"{folder / CONFIG}: weights quantized by {shown(method)} cannot be read; bf16, fp16 or fp32 ones can"
            )
    return config


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder by name; safetensors only."""
    tensors: dict[str, Tensor] = {}
    for name in _weight_files(folder):
        try:
            tensors |= load_file(folder / name)
        except SafetensorError as error:
            raise BadInput(f"{folder / name} is not a whole safetensors file: {error}") from None
        except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            raise BadInput(f"{folder / name} cannot be read: {error}") from None
    if not tensors:
        raise BadInput(f"{folder} holds no tensors; give a folder with the model's weights")
    return tensors


def dtypes_of(tensors: dict[str, Tensor]) -> tuple[str, dict[str, str]]:
    """The dtype of most tensors, and that of each tensor with another one."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    kinds = {name: names[tensor.dtype] for name, tensor in tensors.items()}
    usual = Counter(kinds.values()).most_common(1)[0][0]
    return usual, {name: kind for name, kind in kinds.items() if kind != usual}


def write_weights(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write config.json and the weights into an existing folder."""
    write_json(folder / CONFIG, config)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping as indented JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _weight_files(folder: Path) -> list[str]:
    if (folder / INDEX).is_file():
        files = sorted(set(checked(Index, read_json(folder / INDEX), str(folder / INDEX)).weight_map.values()))
        if not files:
            raise BadInput(f"{folder / INDEX} names no files; weight_map must give the file of each tensor")
        # A name may not lead out of the folder, whatever the system calls a separator.
        if odd := [name for name in files if {"/", "\\", "\0"} & set(name) or not name.endswith(".safetensors")]:
            raise BadInput(f"{folder / INDEX} names {shown(odd[0])}; a .safetensors file next to it is valid")
        if absent := [name for name in files if not _is_file(folder / name)]:
            named = ", ".join(shown(name) for name in absent[:5])
            raise BadInput(f"{folder / INDEX} names {len(absent)} files that are not there: {named}")
        return files
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    found = sorted(path.name for path in folder.iterdir() if path.suffix in UNSAFE_SUFFIXES)
    reason = f"{', '.join(found[:5])} may run code when read" if found else "there are none"
    raise BadInput(f"{folder} needs weights in {WEIGHTS} (safetensors only): {reason}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system takes
        return False
