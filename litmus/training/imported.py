"""What an imported model brings that no recipe says: kept by its run and the runs begun from it, exported again."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Imported(BaseModel):
    """The facts of a Hugging Face folder next to recipe, weights and tokenizer.

    dtype: the number format of its tensors; dtypes: of those tensors that have another. config, generation_config: the
    content of these files. written: what config.json says of the recipe as it was imported, in Litmus's own words; what
    differs from it at an export has changed since.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    dtype: str
    dtypes: dict[str, str] = {}
    config: dict[str, Any]
    written: dict[str, Any]
    generation_config: dict[str, Any] | None = None
