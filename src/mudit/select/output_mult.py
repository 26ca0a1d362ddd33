"""The readout's multiplier: where its optimum lies at each width, whether that moves, and how the learning rate follows it.

The published code offers the multiplier as a base hyperparameter (its `logstd`, a power of two); a study of it is not published.
Each multiplier has its own learning-rate sweep, and what is compared is the loss at each one's best rate. The multiplier may matter
little, and its best may lie at the end of the range: both are findings, so nothing here is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from mudit.config.search import OutputMultAxis
from mudit.runs import Setting
from mudit.select.optimum import (
    Curve,
    Optimum,
    Verdict,
    find_optimum,
    mean_interval,
    pooled_intervals,
    slope_interval,
    verdict,
)
from mudit.select.records import Bounds, Record, bounds, finite
from mudit.sweep.settings import OUTPUT_MULT_SCHEME, output_mult_settings


class MultiplierResult(Record):
    """One multiplier at one width: the best of its learning-rate sweep. Null where every rate diverged."""

    log2_output_mult: int
    setting: str
    best_log2_lr: float | None
    lr_at_edge: bool = Field(description="that rate is the last of its grid, so a better one may lie beyond")
    optimum_log2_lr: float | None = Field(description="fitted minimum in log2 lr, mean over seeds; null at the edge")
    loss: float | None = Field(description="at the best rate, mean over seeds")
    losses: dict[int, float | None] = Field(description="the same by seed")


class MultiplierOptimum(Record):
    """One width: the multipliers and the best of them, each at its own best learning rate."""

    width: int
    multipliers: list[MultiplierResult]
    best: int | None = Field(description="log2 of the best multiplier; null if all diverged")
    at_edge: bool = Field(description="it is the first or last of those studied, so the optimum is not known")
    optimum: float | None = Field(description="fitted minimum in log2 of the multiplier, mean over seeds; null at the edge")
    interval: Bounds | None
    vertices: dict[int, float] = Field(description="fitted minimum by seed; empty at the edge")
    span: float | None = Field(description="relative loss between the worst and the best multiplier: how much it matters at all")
    span_interval: Bounds | None = Field(description="of that difference, paired by seed")
    lr_slope: float | None = Field(description="change of the fitted log2 lr per doubling of the multiplier")
    lr_slope_interval: Bounds | None


class OutputMultStudy(Record):
    """The study at one batch size and horizon."""

    scheme: str
    batch_size: int
    steps: int
    widths: list[MultiplierOptimum]
    drift: float | None = Field(description="log2 of the multiplier per doubling of width; null if an optimum is not known")
    drift_interval: Bounds | None
    verdict: Literal["transfers", "drifts", "undecided"]
    reason: str


def study_output_mult(
    axis: OutputMultAxis,
    curves: Mapping[Setting, Mapping[int, Curve]],
    seeds: list[int],
    confidence: float,
    tolerance: float,
) -> OutputMultStudy:
    """curves: setting -> horizon -> learning-rate curve, of every setting of the axis."""
    by_width = {
        width: {multiplier: (setting, curves[setting][axis.steps]) for multiplier, setting in by_multiplier.items()}
        for width, by_multiplier in output_mult_settings(axis).items()
    }
    results = {
        width: [_multiplier(multiplier, setting, curve, seeds) for multiplier, (setting, curve) in by_multiplier.items()]
        for width, by_multiplier in by_width.items()
    }
    optima = {width: _optimum(multipliers, seeds) for width, multipliers in results.items()}
    known = {width: optimum for width, optimum in optima.items() if optimum is not None and not optimum.at_edge}
    intervals = dict(zip(known, pooled_intervals([list(o.vertices.values()) for o in known.values()], confidence), strict=True))
    widths = [
        _width(
            width,
            multipliers,
            optima[width],
            bounds(intervals[width]) if width in intervals else None,
            by_width[width],
            seeds,
            confidence,
        )
        for width, multipliers in results.items()
    ]
    drift, interval, judged, reason = _drift(known, list(optima), confidence, tolerance)
    return OutputMultStudy(
        scheme=OUTPUT_MULT_SCHEME,
        batch_size=axis.batch_size,
        steps=axis.steps,
        widths=widths,
        drift=drift,
        drift_interval=interval,
        verdict=judged,
        reason=reason,
    )


def _multiplier(multiplier: int, setting: Setting, curve: Curve, seeds: list[int]) -> MultiplierResult:
    optimum = _find(curve, seeds)
    if optimum is None:
        return MultiplierResult(
            log2_output_mult=multiplier,
            setting=setting.name,
            best_log2_lr=None,
            lr_at_edge=False,
            optimum_log2_lr=None,
            loss=None,
            losses=dict.fromkeys(seeds),
        )
    return MultiplierResult(
        log2_output_mult=multiplier,
        setting=setting.name,
        best_log2_lr=optimum.best,
        lr_at_edge=optimum.at_edge,
        optimum_log2_lr=None if optimum.at_edge else optimum.vertex,
        loss=optimum.loss,
        losses={seed: finite(curve[optimum.best][seed]) for seed in seeds},
    )


def _optimum(multipliers: list[MultiplierResult], seeds: list[int]) -> Optimum | None:
    return _find(
        {
            float(result.log2_output_mult): {seed: math.inf if (loss := result.losses[seed]) is None else loss for seed in seeds}
            for result in multipliers
        },
        seeds,
    )


def _width(
    width: int,
    multipliers: list[MultiplierResult],
    optimum: Optimum | None,
    interval: Bounds | None,
    curves: Mapping[int, tuple[Setting, Curve]],
    seeds: list[int],
    confidence: float,
) -> MultiplierOptimum:
    span, span_interval = _span(multipliers, confidence)
    lr_slope, lr_slope_interval = _lr_slope(multipliers, curves, seeds, confidence)
    known = optimum is not None and not optimum.at_edge
    return MultiplierOptimum(
        width=width,
        multipliers=multipliers,
        best=None if optimum is None else round(optimum.best),
        at_edge=optimum is not None and optimum.at_edge,
        optimum=optimum.vertex if optimum is not None and known else None,
        interval=interval,
        vertices=optimum.vertices if optimum is not None and known else {},
        span=span,
        span_interval=span_interval,
        lr_slope=lr_slope,
        lr_slope_interval=lr_slope_interval,
    )


def _span(multipliers: list[MultiplierResult], confidence: float) -> tuple[float | None, Bounds | None]:
    """Worst against best of the multipliers that trained with every seed, paired by seed."""
    trained = [result for result in multipliers if result.loss is not None]
    if len(trained) < 2:
        return None, None
    best, worst = (choose(trained, key=lambda result: result.loss or math.inf) for choose in (min, max))
    assert best.loss is not None
    differences = [(there - here) / best.loss for there, here in zip(_values(worst), _values(best), strict=True)]
    return sum(differences) / len(differences), bounds(mean_interval(differences, confidence))


def _values(result: MultiplierResult) -> list[float]:
    values = [loss for loss in result.losses.values() if loss is not None]
    assert len(values) == len(result.losses), "a finite mean has finite parts"
    return values


def _lr_slope(
    multipliers: list[MultiplierResult], curves: Mapping[int, tuple[Setting, Curve]], seeds: list[int], confidence: float
) -> tuple[float | None, Bounds | None]:
    """Of the fitted best rates, every seed a point; rates at the edge of their grid say nothing and are left out."""
    x, y = [], []
    for result in multipliers:
        if result.optimum_log2_lr is not None:
            vertices = find_optimum(curves[result.log2_output_mult][1], seeds).vertices
            x += [float(result.log2_output_mult)] * len(vertices)
            y += list(vertices.values())
    if len(set(x)) < 2:
        return None, None
    slope, interval = slope_interval(x, y, confidence)
    return slope, bounds(interval)


def _drift(
    known: Mapping[int, Optimum], widths: list[int], confidence: float, tolerance: float
) -> tuple[float | None, Bounds | None, Verdict, str]:
    if len(widths) < 2:
        return None, None, "undecided", "one width: nothing to compare"
    unknown = [str(width) for width in widths if width not in known]
    if unknown:
        return None, None, "undecided", f"the best multiplier is not inside the range studied at width {', '.join(unknown)}"
    x = [math.log2(width) for width, optimum in known.items() for _ in optimum.vertices]
    y = [vertex for optimum in known.values() for vertex in optimum.vertices.values()]
    drift, interval = slope_interval(x, y, confidence)
    return drift, bounds(interval), verdict(interval, tolerance), "slope of the fitted optima over log2 of the width"


def _find(curve: Curve, seeds: list[int]) -> Optimum | None:
    """None if every point diverged."""
    try:
        return find_optimum(curve, seeds)
    except ValueError:
        return None
