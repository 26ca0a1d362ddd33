"""Pydantic's errors in our words: one line, without the kinds of error that it puts before a validator's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from mudit.config.base import PositiveInt, Section
from mudit.config.wording import first_problem


class Box(Section):
    kind: Literal["box"]
    side: PositiveInt
    name: str = Field(pattern="^[a-z]+$", min_length=2)
    parts: list[int] = Field(min_length=2)

    @model_validator(mode="after")
    def _fits(self) -> Box:
        if self.side % 2:
            raise ValueError(f"side {self.side} is odd; make it even")
        return self


class Disc(Section):
    kind: Literal["disc"]


GOOD = {"kind": "box", "side": 2, "name": "ab", "parts": [1, 2]}
SHAPE: TypeAdapter[Any] = TypeAdapter(Annotated[Box | Disc, Field(discriminator="kind")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 3}, "side 3 is odd; make it even"),
        ({"side": "2"}, 'side: "2" must be a valid integer'),
        ({"side": -2}, "side: -2 must be greater than 0"),
        ({"name": "A b"}, "name: \"A b\" must be text that matches pattern '^[a-z]+$'"),
        ({"name": ""}, 'name: "" must be text of at least 2 characters'),
        ({"parts": [1]}, "parts: [1] must be a list of at least 2 items, not 1"),
        ({"parts": list(range(40)) * 2 + ["x"]}, 'parts.80: "x" must be a valid integer, unable to parse string as an integer'),
        ({"sides": 3, "side": None}, "sides: unknown key"),
        ({"kind": "ring"}, "kind is 'ring'; it must be 'box' or 'disc'"),
        ({"parts": "x" * 100}, 'parts: "' + "x" * 56 + "... must be a valid list"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    given = {**GOOD, **changes}
    with pytest.raises(ValidationError) as error:
        SHAPE.validate_python({name: value for name, value in given.items() if value is not None})
    assert first_problem(error.value, tagged=True) == message


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValidationError) as error:
        Box.model_validate({**{name: value for name, value in GOOD.items() if name != "side"}})
    assert first_problem(error.value) == "side: missing"
