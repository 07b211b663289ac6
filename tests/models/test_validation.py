"""Pydantic's errors as sentences."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from models.validation import describe_error


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    count: int = Field(default=1, ge=1, le=9)
    share: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    name: str = Field(default="a", min_length=1, max_length=5)
    on: bool = False
    kind: Literal["png", "webp"] = "png"
    pair: list[int] = Field(default=[1, 2], min_length=2, max_length=2)
    arms: dict[Annotated[str, Field(pattern="^[a-z]+$")], float] = {}
    even: int = 0

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"count": "x"}, 'count: must be an integer, got "x"'),
        ({"count": 1.5}, "count: must be an integer, got 1.5"),
        ({"count": None}, "count: must be an integer, got null"),
        ({"count": 0}, "count: must be at least 1, got 0"),
        ({"count": 10**50}, "count: must be at most 9, got 1" + "0" * 50),
        ({"count": 10**80}, "count: must be at most 9, got 1" + "0" * 59 + "..."),
        ({"share": 0}, "share: must be more than 0, got 0"),
        ({"share": float("nan")}, "share: must be a finite number, got NaN"),
        ({"name": ""}, "name: must not be empty; fill it in or leave it out"),
        ({"name": "\0" * 6}, "name: must have at most 5 characters, got 6"),
        ({"name": [1]}, "name: must be a string, got a list"),
        ({"on": 1}, "on: must be true or false, got 1"),
        ({"kind": "\x1b[2J"}, "kind: must be 'png' or 'webp', got \"\\u001b[2J\""),
        ({"pair": [1]}, "pair: must have at least 2 entries, got 1"),
        ({"pair": [1, {}]}, "pair.1: must be an integer, got an object"),
        ({"arms": {"A": 1.0}}, 'arms.A: must match the pattern ^[a-z]+$, got "A"'),
        ({"even": 3}, "even: must be even"),
        ({"odd": 1}, "odd: is unknown; leave it out"),
    ],
)
def test_a_sentence_names_the_field_what_it_must_be_and_what_it_was(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Body.model_validate(data)
    assert describe_error(refused.value) == sentence


def test_a_table_that_is_all_wrong_is_cut_short() -> None:
    with pytest.raises(ValidationError) as refused:
        Body.model_validate(dict.fromkeys(["a", "b", "c", "d", "e"], 1))
    assert describe_error(refused.value).endswith("; and 2 more")
