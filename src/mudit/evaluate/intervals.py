"""Intervals of metrics: Wilson for shares, a bootstrap for means, a delete-a-group jackknife for Fréchet distances and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000


def wilson(successes: int, count: int) -> list[float]:
    """Wilson's score interval of a share."""
    from scipy.stats import binomtest  # slow import

    interval = binomtest(successes, count).proportion_ci(CONFIDENCE, method="wilson")
    return [float(interval.low), float(interval.high)]


def bootstrap(values_N: NDArray[np.float64], seed: int) -> list[float]:
    """Percentile bootstrap interval of the mean over two or more images, from `seed` alone."""
    from scipy.stats import bootstrap as scipys  # slow import

    result = scipys(
        (values_N,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=100,  # bounds memory
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def jackknife(value: float, without_group: Sequence[float]) -> list[float]:
    """Interval of a statistic from its values with each of g equal groups of images left out (Efron & Tibshirani 1993, section 11).

    Leaving groups out, unlike resampling with replacement, never repeats an image: repeats shrink covariances and push a Fréchet
    distance away from zero.
    """
    groups = len(without_group)
    mean = sum(without_group) / groups
    error = math.sqrt((groups - 1) / groups * sum((estimate - mean) ** 2 for estimate in without_group))
    return student(value, error, groups)


def student(value: float, error: float, groups: int) -> list[float]:
    """Interval around a value whose standard error was estimated from so many groups."""
    from scipy.stats import t  # slow import

    half = float(t.ppf((1 + CONFIDENCE) / 2, groups - 1)) * error
    return [value - half, value + half]
