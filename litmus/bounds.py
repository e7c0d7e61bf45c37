"""The base class of option models: floats are finite and integers bounded."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from litmus.errors import shown

MAX_INT = 2**31 - 1
"""Upper bound of integers whose field declares none; no size beyond it fits into memory."""

MAX_SEED = 2**32 - 1
MAX_FILE_BYTES = 2**63 - 1


class Bounded(BaseModel):
    """Options whose integers are at most `MAX_INT` (or the field's own bound) and whose floats are finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if type(value) is not int or -MAX_INT <= value <= MAX_INT:
                continue
            if not any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in field.metadata):
                raise ValueError(f"{name} = {shown(value)} is beyond {MAX_INT}, the largest that is valid")
        return self
