"""The base of every set of options: numbers are finite, and whole numbers no larger than a size can be."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from litmus.errors import shown

LARGEST = 2**31 - 1
"""The largest whole number where a field declares no bound of its own: sizes beyond it fit no memory."""

LARGEST_SEED = 2**32 - 1
LARGEST_FILE = 2**63 - 1


class Bounded(BaseModel):
    """Options whose whole numbers are at most `LARGEST` (or the field's own bound) and whose floats are finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="after")
    def _no_number_is_beyond_its_bound(self) -> Self:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if type(value) is not int or -LARGEST <= value <= LARGEST:
                continue
            if not any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in field.metadata):
                raise ValueError(f"{name} = {shown(value)} is beyond {LARGEST}, the largest that is valid")
        return self
