"""Error sentences: what was found, and the nearest thing that would be valid."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from litmus.errors import BadInput, Failed, first_fault, missing_extra, nearest


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = Field(1, ge=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["a", "b"]
    inner: Inner | None = None
    many: list[Inner] = []
    loose: int = 0
    own: int = 0

    @field_validator("loose")
    @classmethod
    def _small(cls, value: int) -> int:
        if value > 9:
            raise ValueError("more than 9")
        return value

    @field_validator("own")
    @classmethod
    def _ours(cls, value: int) -> int:
        if value > 9:
            raise BadInput(f"own = {value} is more than 9")
        return value


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ("standrd", "did you mean 'standard'?"),
        ("ssmx", "did you mean 'ssmax' or 'ssmax-nope'?"),
        ("xyz", "valid: nope, ssmax, ssmax-nope, standard"),
        ("", "valid: nope, ssmax, ssmax-nope, standard"),
    ],
)
def test_the_nearest_names_are_suggested_or_all_are_listed(found: str, sentence: str) -> None:
    assert nearest(found, ["standard", "ssmax", "nope", "ssmax-nope", "nope"]) == sentence


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"kind": "a", "iner": 1}, "unknown key 'iner'; did you mean 'inner' or 'kind'?"),
        ({"kind": "a", "inner": {"widht": 1}}, "unknown key 'inner.widht'; did you mean 'width'?"),
        ({"kind": "a", "many": [{}, {"widht": 1}]}, "unknown key 'many.1.widht'; did you mean 'width'?"),
        ({}, "the key 'kind' is missing"),
        ({"kind": "c"}, "kind = 'c' is not valid: input should be 'a' or 'b'"),
        (
            {"kind": "a", "inner": {"width": 0}},
            "inner.width = 0 is not valid: input should be greater than or equal to 1",
        ),
        ({"kind": "a", "loose": 10}, "loose: more than 9"),
        ({"kind": "a", "own": 10}, "own = 10 is more than 9"),
    ],
)
def test_the_first_fault_is_one_clause(raw: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(raw)
    assert first_fault(error.value, Outer) == sentence


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    error = missing_extra("pyarrow", "data", "reading Parquet")
    assert isinstance(error, BadInput)
    assert str(error) == "reading Parquet needs the package 'pyarrow'; install it with: pip install 'litmus-lm[data]'"


def test_bad_input_is_a_value_error_and_a_failure_is_not() -> None:
    assert issubclass(BadInput, ValueError)
    assert not issubclass(Failed, ValueError)
