"""What every section of `config.yaml` is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SchemeName = Literal["mup", "sp", "sp-same-init"]
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]


def _no_repeats(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{seeds} has a seed twice; intervals are over different ones")
    return seeds


Seeds = Annotated[list[Count], AfterValidator(_no_repeats)]
Share = Annotated[float, Field(ge=0, le=1)]
Log2 = Annotated[float, Field(ge=-40, le=10)]


class Section(BaseModel):
    """A part of the configuration: immutable, complete, strict about keys; no number is infinite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
