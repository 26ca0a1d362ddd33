"""The transfer certificate: optimum, drift, regret and verdict for each axis and scheme, as typed JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from mudit.config.schema import SelectSection
from mudit.config.search import SweepSection
from mudit.errors import GridEdgeError
from mudit.runs import Setting
from mudit.select.optimum import Curve, Optimum, find_optimum, mean_interval, pooled_intervals, slope_interval, verdict
from mudit.select.output_mult import OutputMultStudy, study_output_mult
from mudit.select.records import Bounds, Record, bounds, finite

FILE = "certificate.json"
AxisName = Literal["width", "batch_size", "steps"]
ALGORITHMS: dict[AxisName, str] = {"width": "Algorithm 1", "batch_size": "Algorithm 2", "steps": "Algorithm 3"}


class CurvePoint(Record):
    """One learning rate of one setting. `mean` is null if any seed diverged; `losses` has null for a diverged seed."""

    log2_lr: float
    mean: float | None
    losses: dict[int, float | None]


class SettingResult(Record):
    """One setting at one horizon."""

    value: int = Field(description="the axis's value: channels, images or steps")
    setting: str
    steps: int
    curve: list[CurvePoint]
    best_log2_lr: float
    best_loss: float
    optimum: float = Field(description="log2 lr of the fitted minimum, mean over seeds")
    interval: Bounds | None
    vertices: dict[int, float]
    at_stability_edge: bool


class Regret(Record):
    """Loss of using the first setting's best learning rate at the last one, over the last one's own best. Relative to that best."""

    value: int
    log2_lr: float
    seeds: int
    relative: float | None = Field(description="null if the transferred rate diverges there")
    interval: Bounds | None


class AxisResult(Record):
    """One scheme along one axis. An axis of one value is a proxy without a check: no drift, no regret, `undecided`."""

    axis: AxisName
    scheme: str
    algorithm: str
    settings: list[SettingResult]
    drift: float | None = Field(description="log2 lr per doubling of the axis; null on an axis of one value")
    drift_interval: Bounds | None
    verdict: Literal["transfers", "drifts", "undecided"]
    regret: Regret | None = Field(description="null on an axis of one value")


class Certificate(Record):
    """Everything that the sweeps say. `horizon` states what it was measured on: a certificate holds for no other."""

    experiment: str
    metric: str
    seeds: list[int]
    confidence: float
    tolerance: float
    axes: list[AxisResult]
    tuned: dict[str, SettingResult] = Field(description="scheme -> sweep at the target's width")
    output_mult: OutputMultStudy | None = Field(description="study of the readout's multiplier; null if there was none")

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
    """Build the certificate. Raises GridEdgeError if a setting's best learning rate is the last of its range.

    The study of the readout's multiplier raises nothing: what it could not decide, it says.
    """
    axes = [
        _axis(axis, scheme, points, curves, sweep, select)
        for scheme in sweep.schemes
        for axis, points in _axis_points(sweep, scheme).items()
    ]
    return Certificate(
        experiment=experiment,
        metric="validation mse of the raw weights on the fixed (image, t, noise) set",
        seeds=sweep.seeds,
        confidence=select.confidence,
        tolerance=select.tolerance,
        axes=axes,
        tuned={
            scheme: _settings([point], curves, sweep.seeds, select.confidence)[0] for scheme, point in _tuned_points(sweep).items()
        },
        output_mult=(
            study_output_mult(sweep.output_mults, curves, sweep.seeds, select.confidence, select.tolerance)
            if sweep.output_mults is not None
            else None
        ),
    )


Point = tuple[int, Setting, int]  # the axis's value, setting, horizon


def _axis_points(sweep: SweepSection, scheme: str) -> dict[AxisName, list[Point]]:
    """The axes that there are. The sweep at the target's width extends the width axis if batch and steps match."""
    widths, batches, steps, tuned = sweep.widths, sweep.batch_sizes, sweep.steps, sweep.tuned
    width_values = set(widths.width)
    if tuned is not None and scheme in tuned.schemes and (tuned.batch_size, tuned.steps) == (widths.batch_size, widths.steps):
        width_values.add(tuned.width)
    points: dict[AxisName, list[Point]] = {
        "width": [(w, Setting(scheme, w, widths.batch_size), widths.steps) for w in sorted(width_values)]
    }
    if batches is not None:
        points["batch_size"] = [(b, Setting(scheme, batches.width, b), batches.steps) for b in sorted(set(batches.batch_size))]
    if steps is not None:
        points["steps"] = [(t, Setting(scheme, steps.width, steps.batch_size), t) for t in sorted(set(steps.steps))]
    return points


def _tuned_points(sweep: SweepSection) -> dict[str, Point]:
    tuned = sweep.tuned
    if tuned is None:
        return {}
    return {s: (tuned.width, Setting(s, tuned.width, tuned.batch_size), tuned.steps) for s in tuned.schemes}


def _axis(
    axis: AxisName,
    scheme: str,
    points: list[Point],
    curves: Curves,
    sweep: SweepSection,
    select: SelectSection,
) -> AxisResult:
    results = _settings(points, curves, sweep.seeds, select.confidence)
    if len(points) == 1:
        return AxisResult(
            axis=axis,
            scheme=scheme,
            algorithm=ALGORITHMS[axis],
            settings=results,
            drift=None,
            drift_interval=None,
            verdict="undecided",
            regret=None,
        )
    x = [math.log2(result.value) for result in results for _ in result.vertices]
    y = [vertex for result in results for vertex in result.vertices.values()]
    drift, interval = slope_interval(x, y, select.confidence)
    return AxisResult(
        axis=axis,
        scheme=scheme,
        algorithm=ALGORITHMS[axis],
        settings=results,
        drift=drift,
        drift_interval=bounds(interval),
        verdict=verdict(interval, select.tolerance),
        regret=transfer_regret(results[-1], results[0].best_log2_lr, select.confidence),
    )


def _settings(points: list[Point], curves: Curves, seeds: list[int], confidence: float) -> list[SettingResult]:
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
            interval=bounds(interval),
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


def transfer_regret(target: SettingResult, log2_lr: float, confidence: float) -> Regret:
    """Relative loss of `log2_lr` over the best of a setting's own sweep, paired over the seeds that measured both."""
    losses = {point.log2_lr: point.losses for point in target.curve}
    there, best = losses.get(log2_lr, {}), losses[target.best_log2_lr]
    pairs = [(there[seed], best[seed]) for seed in best if seed in there]
    differences = [(loss - least) / target.best_loss for loss, least in pairs if loss is not None and least is not None]
    measured = bool(differences) and len(differences) == len(pairs)
    return Regret(
        value=target.value,
        log2_lr=log2_lr,
        seeds=len(pairs),
        relative=sum(differences) / len(differences) if measured else None,
        interval=bounds(mean_interval(differences, confidence)) if measured else None,
    )


def _points(curve: Curve) -> list[CurvePoint]:
    points = []
    for log2_lr, by_seed in sorted(curve.items()):
        losses = {seed: finite(loss) for seed, loss in sorted(by_seed.items())}
        trained = [loss for loss in losses.values() if loss is not None]
        mean = sum(trained) / len(trained) if len(trained) == len(losses) else None
        points.append(CurvePoint(log2_lr=log2_lr, mean=mean, losses=losses))
    return points
