"""What every section of `config.yaml` is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SchemeName = Literal["mup", "sp", "sp-same-init"]
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Log2 = Annotated[float, Field(ge=-40, le=10)]


class Section(BaseModel):
    """A part of the configuration: immutable, complete, strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
