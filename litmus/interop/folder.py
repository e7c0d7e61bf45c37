"""A Hugging Face model folder on disk: config.json and safetensors, in one file or several with an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from litmus.errors import BadInput

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; quantized weights are refused."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {str(folder)!r}; give a folder with {CONFIG} and {WEIGHTS}")
    if not (folder / CONFIG).is_file():
        raise BadInput(f"{folder} is not a Hugging Face model: it has no {CONFIG}")
    config = _json(folder / CONFIG)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method")
        raise BadInput(
            f"{folder / CONFIG}: weights quantized by {method!r} cannot be read; bf16, fp16 or fp32 ones can"
        )
    return config


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder by name; safetensors only."""
    if (folder / INDEX).is_file():
        files = sorted(set(_json(folder / INDEX).get("weight_map", {}).values()))
        if absent := [name for name in files if not (folder / name).is_file()]:
            raise BadInput(f"{folder / INDEX} names {len(absent)} files that are not there: {', '.join(absent[:5])}")
    elif (folder / WEIGHTS).is_file():
        files = [WEIGHTS]
    else:
        found = sorted(path.name for path in folder.iterdir() if path.suffix in UNSAFE)
        reason = f"{', '.join(found[:5])} may run code when read" if found else "there are none"
        raise BadInput(f"{folder} needs weights in {WEIGHTS} (safetensors only): {reason}")
    tensors: dict[str, Tensor] = {}
    for name in files:
        try:
            tensors |= load_file(folder / name)
        except SafetensorError as error:
            raise BadInput(f"{folder / name} is not a whole safetensors file: {error}") from None
    return tensors


def write_weights(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write config.json and the weights into an existing folder."""
    write_json(folder / CONFIG, {**config, "torch_dtype": "float32"})
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping as JSON a person can read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} must hold a JSON mapping, found {type(content).__name__}")
    return content
