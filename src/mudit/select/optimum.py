"""Where the optimum lies and how surely: parabolas in log2 learning rate, one per seed, and Student intervals.

Each seed gives its own vertex from the best point (by the mean over seeds) and its two neighbours. Intervals use the spread of
those vertices, pooled over the settings of an axis. Resampling three seeds (a bootstrap) has ten distinct outcomes and covers too
rarely; the pooled Student interval covers as stated (tests/unit/select/test_optimum.py simulates it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

# log2 lr -> seed -> loss; infinite where the run had diverged
Curve = Mapping[float, Mapping[int, float]]
Verdict = Literal["transfers", "drifts", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A two-sided interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Optimum:
    """The best of a curve. Learning rates are base-2 logarithms."""

    best: float  # grid point with the lowest mean loss over the seeds
    vertex: float  # mean of the seeds' parabola vertices
    vertices: dict[int, float]  # by seed
    loss: float  # mean loss at `best`
    at_edge: bool  # `best` is the last point of the range on a side, so the true optimum may lie beyond
    at_stability_edge: bool  # the next point up diverged for a seed at least


def find_optimum(curve: Curve, seeds: Sequence[int]) -> Optimum:
    """Best point among those that every seed measured. Raises ValueError if every such point diverged."""
    means = {
        point: float(np.mean([by_seed[seed] for seed in seeds]))
        for point, by_seed in sorted(curve.items())
        if all(seed in by_seed for seed in seeds)
    }
    finite = {point: mean for point, mean in means.items() if math.isfinite(mean)}
    if not finite:
        raise ValueError("every learning rate diverged")
    best = min(finite, key=finite.__getitem__)
    points = sorted(curve)
    place = points.index(best)
    below = points[place - 1] if place > 0 else None
    above = points[place + 1] if place + 1 < len(points) else None
    vertices = {
        seed: _vertex(best, [None if point is None else curve[point].get(seed) for point in (below, best, above)], below, above)
        for seed in seeds
    }
    return Optimum(
        best=best,
        vertex=float(np.mean(list(vertices.values()))),
        vertices=vertices,
        loss=finite[best],
        at_edge=below is None or above is None,
        at_stability_edge=above is not None and not all(math.isfinite(loss) for loss in curve[above].values()),
    )


def _vertex(best: float, losses: Sequence[float | None], below: float | None, above: float | None) -> float:
    """Minimum of the parabola through three points, kept within them. A diverged neighbour is the limit of a growing loss."""
    left, middle, right = losses
    if left is None or middle is None or right is None or below is None or above is None:
        return best  # an edge: reported as such, not extrapolated
    if not math.isfinite(middle):
        return 0.5 * (below + best)  # this seed diverged at the others' best
    if not math.isfinite(right):
        return best - 0.5 * (above - best)
    if not math.isfinite(left):
        return best + 0.5 * (best - below)
    falling, rising = (middle - left) / (best - below), (right - middle) / (above - best)  # slopes on both sides
    if rising <= falling:
        return below if left < right else above
    share = rising / (rising - falling)  # the parabola's slope is linear between the midpoints of the two sides
    vertex = 0.5 * (share * (below + best) + (1 - share) * (best + above))
    return float(min(max(vertex, below), above))


def pooled_intervals(groups: Sequence[Sequence[float]], confidence: float) -> list[Interval]:
    """Student intervals of the groups' means, with one standard deviation pooled over the groups."""
    degrees = sum(len(group) - 1 for group in groups)
    if degrees == 0:
        return [Interval(-math.inf, math.inf) for _ in groups]
    variance = sum(float(np.var(group, ddof=1)) * (len(group) - 1) for group in groups if len(group) > 1) / degrees
    quantile = float(stats.t.ppf(0.5 + confidence / 2, degrees))
    return [_around(float(np.mean(group)), quantile * math.sqrt(variance / len(group))) for group in groups]


def mean_interval(values: Sequence[float], confidence: float) -> Interval:
    """Student interval of a mean; unbounded for a single value."""
    return pooled_intervals([values], confidence)[0]


def slope_interval(x: Sequence[float], y: Sequence[float], confidence: float) -> tuple[float, Interval]:
    """Least-squares slope of y on x with its Student interval, from all points (every seed is a point)."""
    fit = stats.linregress(x, y)
    degrees = len(x) - 2
    if degrees < 1:
        return float(fit.slope), Interval(-math.inf, math.inf)
    error = fit.stderr if min(y) < max(y) else 0.0  # scipy says NaN of points on a level line
    return float(fit.slope), _around(float(fit.slope), float(stats.t.ppf(0.5 + confidence / 2, degrees) * error))


def verdict(interval: Interval, tolerance: float) -> Verdict:
    """`transfers` if the drift's whole interval is within the tolerance; `drifts` if it excludes no drift; else `undecided`."""
    if -tolerance <= interval.low and interval.high <= tolerance:
        return "transfers"
    if interval.low > 0 or interval.high < 0:
        return "drifts"
    return "undecided"


def _around(centre: float, half: float) -> Interval:
    return Interval(centre - half, centre + half)
