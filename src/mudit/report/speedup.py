"""How much sooner one arm reaches another's loss.

The factor of a seed is steps(baseline) / steps(subject) to one and the same loss: the baseline's final loss if the subject gets
there, else the subject's own final loss, which the baseline then reaches sooner and the factor is below 1. Losses between records
are interpolated, log-linear in steps. Factors are averaged over seeds as logarithms, since 2 and 1/2 are equally far from 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mudit.select.optimum import Interval, mean_interval

Curve = tuple[Sequence[int], Sequence[float]]  # steps ascending, finite losses


@dataclass(frozen=True)
class Speedup:
    """Of the subject against one baseline. `mean` is None unless every seed has a factor; `interval` is None for a single seed."""

    factors: dict[int, float]  # by seed
    diverged: dict[int, str]  # seed -> which of `subject`, `baseline`, `both` diverged
    mean: float | None
    interval: Interval | None


def measure(subject: Mapping[int, Curve | None], baseline: Mapping[int, Curve | None], confidence: float) -> Speedup:
    """Paired by seed; None in place of a curve is a diverged run."""
    factors, diverged = {}, {}
    for seed in sorted(subject.keys() & baseline.keys()):
        ours, theirs = subject[seed], baseline[seed]
        if ours is None or theirs is None:
            diverged[seed] = "both" if ours is None and theirs is None else "subject" if ours is None else "baseline"
        else:
            factors[seed] = factor(ours, theirs)
    if diverged or not factors:
        return Speedup(factors, diverged, None, None)
    logs = [math.log2(value) for value in factors.values()]
    interval = mean_interval(logs, confidence)
    bounded = Interval(2**interval.low, 2**interval.high) if math.isfinite(interval.low) else None
    return Speedup(factors, diverged, 2 ** (sum(logs) / len(logs)), bounded)


def factor(subject: Curve, baseline: Curve) -> float:
    """Of one seed: above 1 if the subject is faster."""
    level = max(subject[1][-1], baseline[1][-1])
    ours, theirs = steps_to(subject, level), steps_to(baseline, level)
    assert ours is not None and theirs is not None, "a curve reaches its own end and everything above it"
    return theirs / ours


def steps_to(curve: Curve, level: float) -> float | None:
    """Steps until the loss first is at most `level`; None if it never is. The first record counts as it stands."""
    steps, losses = curve
    for index, loss in enumerate(losses):
        if loss > level:
            continue
        if index == 0:
            return float(steps[0])
        before = losses[index - 1]
        share = math.log(before / level) / math.log(before / loss)
        return steps[index - 1] + share * (steps[index] - steps[index - 1])
    return None
