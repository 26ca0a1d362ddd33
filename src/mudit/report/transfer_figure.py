"""Transfer plots in the manner of the paper's Figure 3: loss against base learning rate, one line per width, batch size or horizon.

Filled circle: mean over all seeds; hollow: over those that were run there; faint dots: seeds; ring: the best grid point; cross at
the top: diverged. Below the curves, one bar per line: the fitted optimum and its interval. Where the rate transfers, the bars stand
above one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mudit.report.style import GRID, PAPER, log2_ticks, ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mudit.select.certificate import AxisResult, SettingResult

SCHEME_TITLES = {"mup": "μP", "sp": "SP", "sp-same-init": "SP, μP's init"}
AXIS_TITLES = {"width": "width", "batch_size": "batch size", "steps": "number of steps"}
_WORST = 2.2  # losses above this multiple of the best are cut off: what matters happens near the minima
_BAR = 0.045  # height of an optimum's bar, as a share of the panel
_CROSS = 0.03


def draw_panel(ax: Axes, axis: AxisResult, together: Sequence[AxisResult]) -> None:
    """One scheme along one axis. Ranges are those of all panels that are shown `together`."""
    rates, low, high = _ranges(together)
    room = _BAR * (len(axis.settings) + 1.2)
    bottom = low * (low / high) ** (room / (1 - room))  # the bars get their share of a logarithmic panel
    ax.set_yscale("log")
    ax.set_ylim(bottom, high)
    ax.set_xlim(rates[0] - 0.5, rates[-1] + 0.5)
    ax.axhspan(bottom, low * (low / high) ** 0.015, color=GRID, alpha=0.45, linewidth=0)
    for index, (setting, colour) in enumerate(zip(axis.settings, ordered(len(axis.settings)), strict=True)):
        _draw_curve(ax, setting, colour, index)
        _draw_optimum(ax, setting, colour, (len(axis.settings) - index) * _BAR)
    ticks = loss_ticks(low, high)
    ax.yaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_ticks([], minor=True)
    log2_ticks(ax.xaxis, rates)
    ax.set_xlabel("base learning rate")
    ax.set_ylabel("validation mse")
    alone = len(axis.settings) == 1
    what = f"{AXIS_TITLES[axis.axis]} {axis.settings[0].value}" if alone else f"by {AXIS_TITLES[axis.axis]}"
    ax.set_title(f"{SCHEME_TITLES[axis.scheme]}, {what}", pad=24)
    ax.legend(loc="lower left", ncols=len(axis.settings), bbox_to_anchor=(0, 1.01), borderaxespad=0, borderpad=0)


def _draw_curve(ax: Axes, setting: SettingResult, colour: str, index: int) -> None:
    all_seeds = len(setting.vertices)
    lines = [(point.log2_lr, point.mean) for point in setting.curve if point.mean is not None]
    ax.plot(*zip(*lines, strict=True), color=colour, linewidth=1.6, marker="o", markersize=4, label=str(setting.value), zorder=3)
    few = [(point.log2_lr, point.mean) for point in setting.curve if point.mean is not None and len(point.losses) < all_seeds]
    if few:
        ax.plot(*zip(*few, strict=True), "o", color=colour, markerfacecolor=PAPER, markersize=4, zorder=3)
    seeds = [(point.log2_lr, loss) for point in setting.curve for loss in point.losses.values() if loss is not None]
    ax.scatter([rate for rate, _ in seeds], [loss for _, loss in seeds], s=9, color=colour, alpha=0.35, linewidth=0, zorder=2)
    ax.plot(setting.best_log2_lr, setting.best_loss, "o", markersize=10, markerfacecolor="none", color=colour, zorder=4)
    diverged = [point.log2_lr for point in setting.curve if point.mean is None]
    height = 0.98 - _CROSS * index  # a row per line, so that crosses at one rate stay apart
    top = ax.transAxes.transform((0, height))[1]
    across = ax.get_xaxis_transform()
    if diverged and lines and diverged[0] > lines[-1][0]:
        loss = ax.transData.inverted().transform((0, top))[1]
        ax.plot([lines[-1][0], diverged[0]], [lines[-1][1], loss], color=colour, linewidth=1, linestyle=":", zorder=2)
    ax.plot(diverged, [height] * len(diverged), "x", transform=across, markersize=6, markeredgewidth=1.6, color=colour)


def _draw_optimum(ax: Axes, setting: SettingResult, colour: str, height: float) -> None:
    across = ax.get_xaxis_transform()
    if setting.interval is not None:
        ax.plot(setting.interval, [height, height], transform=across, color=colour, linewidth=3, alpha=0.55, solid_capstyle="round")
    ax.plot(setting.optimum, height, "o", transform=across, markersize=5.5, color=colour, markeredgecolor=PAPER, zorder=4)


def _ranges(together: Sequence[AxisResult]) -> tuple[list[float], float, float]:
    """Learning rates on the grid, and the losses between which curves are shown."""
    points = [point for axis in together for setting in axis.settings for point in setting.curve]
    losses = [loss for point in points for loss in point.losses.values() if loss is not None]
    low = min(losses) * 0.97
    spread = max(losses) * 1.06
    worst_best = max(setting.best_loss for axis in together for setting in axis.settings)
    return sorted({point.log2_lr for point in points}), low, min(spread, max(low * _WORST, worst_best * 1.3))


def loss_ticks(low: float, high: float) -> list[float]:
    """Round losses, evenly spaced: four to nine of them."""
    step = 10 ** math.floor(math.log10(high - low))
    while (high - low) / step < 4:
        step /= 2
    first = math.ceil(low / step)
    return [round(step * index, 9) for index in range(first, math.floor(high / step) + 1)]
