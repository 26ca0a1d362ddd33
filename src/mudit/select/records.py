"""JSON forms that the parts of the certificate share."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from mudit.select.optimum import Interval


class Record(BaseModel):
    """Strict and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Bounds = tuple[float, float]


def bounds(interval: Interval) -> Bounds | None:
    """JSON has no infinity: an unbounded interval is null."""
    return (interval.low, interval.high) if math.isfinite(interval.low) and math.isfinite(interval.high) else None


def finite(loss: float) -> float | None:
    """A diverged run's loss is null."""
    return loss if math.isfinite(loss) else None
