"""Certificates and speed-ups made by hand."""

from __future__ import annotations

from typing import Literal

from mudit.report.speedup import Speedup
from mudit.select.certificate import AxisName, AxisResult, Regret, SettingResult
from mudit.select.optimum import Interval


def setting(value: int = 32, best: float = -7.0, interval: tuple[float, float] | None = (-7.5, -6.5)) -> SettingResult:
    return SettingResult(
        value=value,
        setting=f"mup_w{value}_b64",
        steps=200,
        curve=[],
        best_log2_lr=best,
        best_loss=0.14,
        optimum=best,
        interval=interval,
        vertices={0: best},
        at_stability_edge=False,
    )


def axis(
    verdict: Literal["transfers", "drifts", "undecided"],
    interval: tuple[float, float] | None = (-0.4, -0.1),
    scheme: str = "mup",
    name: AxisName = "width",
) -> AxisResult:
    return AxisResult(
        axis=name,
        scheme=scheme,
        algorithm="Algorithm 1",
        settings=[setting(16), setting(32)],
        drift=-0.3,
        drift_interval=interval,
        verdict=verdict,
        regret=regret(0.0),
    )


def regret(relative: float | None, interval: tuple[float, float] | None = (0.0, 0.0)) -> Regret:
    return Regret(value=128, log2_lr=-7, seeds=3, relative=relative, interval=interval)


def speedup(mean: float, low: float | None = None, high: float | None = None) -> Speedup:
    return Speedup({0: mean, 1: mean}, {}, mean, None if low is None or high is None else Interval(low, high))


def no_speedup(*who: str) -> Speedup:
    return Speedup({}, dict(enumerate(who)), None, None)
