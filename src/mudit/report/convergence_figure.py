"""Convergence of the target's arms: validation loss against steps, and how much sooner one arm gets where another ends."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mudit.report import text
from mudit.report.paper import SPEEDUP_FACTOR
from mudit.report.style import INK, MUTED, PAPER, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mudit.report.evidence import TargetRun
    from mudit.report.speedup import Speedup

LOSSES = {"ema_mse": "EMA weights", "mse": "raw weights"}


def draw_losses(ax: Axes, runs: Sequence[TargetRun], loss: str) -> None:
    """Mean over seeds as a line, their range as a band. A seed that diverged ends in a cross."""
    arms = list(dict.fromkeys(run.target.arm for run in runs))
    for arm, colour in series(arms).items():
        by_step: dict[int, list[float]] = defaultdict(list)
        members = [run for run in runs if run.target.arm == arm]
        for run in members:
            for step, value in zip(*run.curve(loss), strict=True):
                by_step[step].append(value)
        steps = sorted(by_step)
        low, high = [min(by_step[step]) for step in steps], [max(by_step[step]) for step in steps]
        ax.plot(
            steps, [sum(by_step[step]) / len(by_step[step]) for step in steps], color=colour, linewidth=1.8, label=arm, zorder=3
        )
        ax.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
        for run in members:
            if run.diverged_at is not None and run.history:
                ends, losses = run.curve(loss)
                ax.plot(ends[-1], losses[-1], "x", color=colour, markersize=8, markeredgewidth=2, zorder=4)
    ax.set_yscale("log")
    ax.set_ylim(*_range(runs))
    ticks = _ticks(*_range(runs))
    ax.yaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_ticks([], minor=True)
    ax.set_xlim(left=0)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("validation mse")
    ax.set_title(f"Validation loss, {LOSSES[loss]}")
    ax.legend(loc="upper right")


def draw_speedups(ax: Axes, subject: str, speedups: Mapping[str, Speedup], arms: Sequence[str], *, claimed: bool) -> None:
    """A row per baseline: factor with interval, seeds as faint dots. Logarithmic, with 1 and, if `claimed`, the paper's value."""
    colours = series(arms)
    names = list(speedups)
    extremes = [1.0, SPEEDUP_FACTOR] if claimed else [1.0]
    for row, (name, speedup) in enumerate(speedups.items()):
        factors = list(speedup.factors.values())
        extremes += factors
        ax.scatter(factors, [row] * len(factors), s=16, color=colours[name], alpha=0.35, linewidth=0, zorder=2)
        if speedup.mean is None:
            ax.text(1.05, row, "diverged: no factor", color=colours[name], va="center")
            continue
        if speedup.interval is not None:
            extremes += [speedup.interval.low, speedup.interval.high]
            bounds = (speedup.interval.low, speedup.interval.high)
            ax.plot(bounds, (row, row), color=colours[name], linewidth=3, alpha=0.55, solid_capstyle="round", zorder=2)
        ax.plot(speedup.mean, row, "o", color=colours[name], markersize=7, markeredgecolor=PAPER, zorder=3)
        ax.annotate(
            f"{text.number(speedup.mean)}×", (speedup.mean, row), xytext=(0, 8), textcoords="offset points", ha="center", color=INK
        )
    low, high = max(1 / 64, min(extremes)), min(64, max(extremes))
    ax.set_xscale("log", base=2)
    ax.set_xlim(low / 1.25, high * 1.25)
    ticks = [2.0**power for power in range(math.floor(math.log2(low / 1.25)), math.ceil(math.log2(high * 1.25)) + 1)]
    inside = [tick for tick in ticks if low / 1.25 <= tick <= high * 1.25]
    ax.set_xticks(inside, [f"{tick:g}×" if tick >= 1 else f"1/{1 / tick:g}×" for tick in inside])
    ax.axvline(1, color=MUTED, linewidth=1)
    if claimed:
        ax.axvline(SPEEDUP_FACTOR, color=MUTED, linewidth=1, linestyle="--")
        ax.annotate(
            f"paper, {SPEEDUP_FACTOR:g}×",
            (SPEEDUP_FACTOR, len(names) - 0.45),
            xytext=(4, 0),
            textcoords="offset points",
            va="bottom",
            fontsize=8,
            color=MUTED,
        )
    ax.set_ylim(len(names) - 0.4, -0.75)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(f"above 1×: {subject} is faster")
    ax.set_title(f"Steps of the baseline over steps of {subject}, to the same loss")


def _range(runs: Sequence[TargetRun]) -> tuple[float, float]:
    """From the best loss up to where the slowest arm is after a tenth of its records: the first drop would flatten the rest."""
    curves = [run.curve(loss)[1] for run in runs for loss in LOSSES if run.history]
    start = max(curve[min(len(curve) - 1, max(1, len(curve) // 10))] for curve in curves)
    low = min(min(curve) for curve in curves)
    return low * 0.96, max(start, low * 1.5)


def _ticks(low: float, high: float) -> list[float]:
    """Round losses at even ratios."""
    candidates = [digit * 10.0**power for power in range(-6, 3) for digit in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    return [round(tick, 9) for tick in candidates if low <= tick <= high]
