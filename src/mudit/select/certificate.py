"""The transfer certificate: optimum, drift, regret and verdict for each axis and scheme, as typed JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mudit.config.schema import SelectSection, SweepSection
from mudit.errors import GridEdgeError
from mudit.runs import Setting
from mudit.select.optimum import (
    Curve,
    Interval,
    Optimum,
    find_optimum,
    mean_interval,
    pooled_intervals,
    slope_interval,
    verdict,
)

FILE = "certificate.json"
AxisName = Literal["width", "batch_size", "steps"]
ALGORITHMS: dict[AxisName, str] = {"width": "Algorithm 1", "batch_size": "Algorithm 2", "steps": "Algorithm 3"}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CurvePoint(_Record):
    """One learning rate of one setting. `mean` is null if any seed diverged; `losses` has null for a diverged seed."""

    log2_lr: float
    mean: float | None
    losses: dict[int, float | None]


class SettingResult(_Record):
    """One setting at one horizon."""

    value: int = Field(description="the axis's value: channels, images or steps")
    setting: str
    steps: int
    curve: list[CurvePoint]
    best_log2_lr: float
    best_loss: float
    optimum: float = Field(description="log2 lr of the fitted minimum, mean over seeds")
    interval: tuple[float, float] | None
    vertices: dict[int, float]
    at_stability_edge: bool


class Regret(_Record):
    """Loss of using the first setting's best learning rate at the last one, over the last one's own best. Relative to that best."""

    value: int
    log2_lr: float
    seeds: int
    relative: float | None = Field(description="null if the transferred rate diverges there")
    interval: tuple[float, float] | None


class AxisResult(_Record):
    """One scheme along one axis."""

    axis: AxisName
    scheme: str
    algorithm: str
    settings: list[SettingResult]
    drift: float = Field(description="log2 lr per doubling of the axis")
    drift_interval: tuple[float, float] | None
    verdict: Literal["transfers", "drifts", "undecided"]
    regret: Regret


class Certificate(_Record):
    """Everything that the sweeps say. `horizon` states what it was measured on: a certificate holds for no other."""

    experiment: str
    metric: str
    seeds: list[int]
    confidence: float
    tolerance: float
    axes: list[AxisResult]
    tuned: dict[str, SettingResult] = Field(description="scheme -> sweep at the target's width")

    def axis(self, axis: AxisName, scheme: str) -> AxisResult:
        """One scheme along one axis."""
        return next(result for result in self.axes if result.axis == axis and result.scheme == scheme)

    @classmethod
    def read(cls, folder: Path) -> Certificate:
        """From the artefact of the stage `select`."""
        return cls.model_validate_json((folder / FILE).read_text())


# setting -> horizon -> curve
Curves = dict[Setting, dict[int, Curve]]


def certify(experiment: str, sweep: SweepSection, select: SelectSection, curves: Curves) -> Certificate:
    """Build the certificate. Raises GridEdgeError if a setting's best learning rate is the last of its range."""
    axes = [
        _axis(axis, scheme, points, curves, sweep, select)
        for scheme in sweep.schemes
        for axis, points in _axis_points(sweep, scheme).items()
    ]
    tuned = sweep.tuned
    return Certificate(
        experiment=experiment,
        metric="validation mse of the raw weights on the fixed (image, t, noise) set",
        seeds=sweep.seeds,
        confidence=select.confidence,
        tolerance=select.tolerance,
        axes=axes,
        tuned={
            scheme: _settings(
                [(tuned.width, Setting(scheme, tuned.width, tuned.batch_size), tuned.steps)], curves, sweep.seeds, select.confidence
            )[0]
            for scheme in tuned.schemes
        },
    )


def _axis_points(sweep: SweepSection, scheme: str) -> dict[AxisName, list[tuple[int, Setting, int]]]:
    """Axis -> (value, setting, horizon). The sweep at the target's width extends the width axis if batch and steps match."""
    widths, batches, steps, tuned = sweep.widths, sweep.batch_sizes, sweep.steps, sweep.tuned
    width_values = list(widths.width)
    if scheme in tuned.schemes and (tuned.batch_size, tuned.steps) == (widths.batch_size, widths.steps):
        width_values.append(tuned.width)
    return {
        "width": [(w, Setting(scheme, w, widths.batch_size), widths.steps) for w in sorted(set(width_values))],
        "batch_size": [(b, Setting(scheme, batches.width, b), batches.steps) for b in sorted(batches.batch_size)],
        "steps": [(t, Setting(scheme, steps.width, steps.batch_size), t) for t in sorted(steps.steps)],
    }


def _axis(
    axis: AxisName,
    scheme: str,
    points: list[tuple[int, Setting, int]],
    curves: Curves,
    sweep: SweepSection,
    select: SelectSection,
) -> AxisResult:
    results = _settings(points, curves, sweep.seeds, select.confidence)
    x = [math.log2(result.value) for result in results for _ in result.vertices]
    y = [vertex for result in results for vertex in result.vertices.values()]
    drift, interval = slope_interval(x, y, select.confidence)
    first, last = results[0], points[-1]
    return AxisResult(
        axis=axis,
        scheme=scheme,
        algorithm=ALGORITHMS[axis],
        settings=results,
        drift=drift,
        drift_interval=_pair(interval),
        verdict=verdict(interval, select.tolerance),  # type: ignore[arg-type]
        regret=_regret(first.best_log2_lr, results[-1], curves[last[1]][last[2]], sweep.seeds, select.confidence),
    )


def _settings(points: list[tuple[int, Setting, int]], curves: Curves, seeds: list[int], confidence: float) -> list[SettingResult]:
    optima = [_optimum(setting, horizon, curves[setting][horizon], seeds) for _, setting, horizon in points]
    intervals = pooled_intervals([list(optimum.vertices.values()) for optimum in optima], confidence)
    return [
        SettingResult(
            value=value,
            setting=setting.name,
            steps=horizon,
            curve=_points(curves[setting][horizon]),
            best_log2_lr=optimum.best,
            best_loss=optimum.loss,
            optimum=optimum.vertex,
            interval=_pair(interval),
            vertices=optimum.vertices,
            at_stability_edge=optimum.at_stability_edge,
        )
        for (value, setting, horizon), optimum, interval in zip(points, optima, intervals, strict=True)
    ]


def _optimum(setting: Setting, horizon: int, curve: Curve, seeds: list[int]) -> Optimum:
    try:
        optimum = find_optimum(curve, seeds)
    except ValueError as error:
        raise GridEdgeError(f"{setting.name}, {horizon} steps: {error}; lower sweep.log2_lr_min") from None
    if optimum.at_edge:
        raise GridEdgeError(
            f"{setting.name}, {horizon} steps: the best log2 lr {optimum.best:g} is the edge of the grid, so the optimum is "
            f"unknown; widen sweep.log2_lr_min and sweep.log2_lr_max"
        )
    return optimum


def _regret(transferred: float, at: SettingResult, curve: Curve, seeds: list[int], confidence: float) -> Regret:
    """Paired by seed: loss(transferred) - loss(best), over the seeds that measured both."""
    there, best = curve.get(transferred, {}), curve[at.best_log2_lr]
    shared = [seed for seed in seeds if seed in there and seed in best]
    differences = [(there[seed] - best[seed]) / at.best_loss for seed in shared]
    finite = bool(differences) and all(math.isfinite(difference) for difference in differences)
    return Regret(
        value=at.value,
        log2_lr=transferred,
        seeds=len(shared),
        relative=sum(differences) / len(differences) if finite else None,
        interval=_pair(mean_interval(differences, confidence)) if finite else None,
    )


def _points(curve: Curve) -> list[CurvePoint]:
    points = []
    for log2_lr, by_seed in sorted(curve.items()):
        losses = {seed: loss if math.isfinite(loss) else None for seed, loss in sorted(by_seed.items())}
        finite = [loss for loss in losses.values() if loss is not None]
        mean = sum(finite) / len(finite) if len(finite) == len(losses) else None
        points.append(CurvePoint(log2_lr=log2_lr, mean=mean, losses=losses))
    return points


def _pair(interval: Interval) -> tuple[float, float] | None:
    """JSON has no infinity: an unbounded interval is null."""
    return (interval.low, interval.high) if math.isfinite(interval.low) and math.isfinite(interval.high) else None
