"""Intervals of metrics: Wilson for shares, a delete-a-group jackknife for the Fréchet distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def wilson(successes: int, count: int) -> list[float]:
    """Wilson's score interval of a share."""
    from scipy.stats import binomtest  # slow import

    interval = binomtest(successes, count).proportion_ci(CONFIDENCE, method="wilson")
    return [float(interval.low), float(interval.high)]


def jackknife(value: float, without_group: Sequence[float]) -> list[float]:
    """Interval of a statistic from its values with each of g equal groups of images left out (Efron & Tibshirani 1993, section 11).

    Leaving groups out, unlike resampling with replacement, never repeats an image: repeats shrink covariances and push a Fréchet
    distance away from zero.
    """
    from scipy.stats import t  # slow import

    groups = len(without_group)
    mean = sum(without_group) / groups
    error = math.sqrt((groups - 1) / groups * sum((estimate - mean) ** 2 for estimate in without_group))
    half = float(t.ppf((1 + CONFIDENCE) / 2, groups - 1)) * error
    return [value - half, value + half]
