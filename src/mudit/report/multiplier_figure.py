"""The readout's multiplier in pictures: loss at each multiplier's best learning rate, and where that rate lies, a line per width.

As in the transfer plots: faint dots are seeds, the ring is the best multiplier, bars at the foot are fitted optima with their
intervals, crosses at the top diverged at every rate. Hollow circles among the rates lie at the edge of their grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudit.report.style import GRID, PAPER, log2_ticks, ordered
from mudit.report.transfer_figure import loss_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mudit.select.output_mult import MultiplierOptimum, OutputMultStudy

_BAR = 0.045  # height of an optimum's bar, as a share of the panel
_CROSS = 0.03


def losses_panel(ax: Axes, study: OutputMultStudy) -> None:
    """Loss against the multiplier."""
    multipliers = sorted({each.log2_output_mult for width in study.widths for each in width.multipliers})
    losses = [loss for width in study.widths for each in width.multipliers for loss in each.losses.values() if loss is not None]
    if losses:
        low, high = min(losses) * 0.97, max(losses) * 1.04
        room = _BAR * (len(study.widths) + 1.2)
        bottom = low * (low / high) ** (room / (1 - room))  # the bars get their share of a logarithmic panel
        ax.set_yscale("log")
        ax.set_ylim(bottom, high)
        ax.axhspan(bottom, low * (low / high) ** 0.015, color=GRID, alpha=0.45, linewidth=0)
        ticks = loss_ticks(low, high)
        ax.yaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.yaxis.set_ticks([], minor=True)
    for index, (width, colour) in enumerate(zip(study.widths, ordered(len(study.widths)), strict=True)):
        _draw_losses(ax, width, colour, index)
        _draw_optimum(ax, width, colour, (len(study.widths) - index) * _BAR)
    _across(ax, multipliers, len(study.widths))
    ax.set_ylabel("validation mse at the best rate")
    ax.set_title("Loss", pad=24)


def rates_panel(ax: Axes, study: OutputMultStudy) -> None:
    """The best base learning rate against the multiplier: fitted, or the last of its grid."""
    multipliers = sorted({each.log2_output_mult for width in study.widths for each in width.multipliers})
    rates = []
    for width, colour in zip(study.widths, ordered(len(study.widths)), strict=True):
        points = [
            (each.log2_output_mult, each.best_log2_lr if each.optimum_log2_lr is None else each.optimum_log2_lr, each.lr_at_edge)
            for each in width.multipliers
        ]
        shown = [(x, rate, edge) for x, rate, edge in points if rate is not None]
        rates += [rate for _, rate, _ in shown]
        x, y = [x for x, _, _ in shown], [rate for _, rate, _ in shown]
        ax.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=4, label=str(width.width), zorder=3)
        edges = [(x, rate) for x, rate, edge in shown if edge]
        ax.plot([x for x, _ in edges], [y for _, y in edges], "o", color=colour, markerfacecolor=PAPER, markersize=4, zorder=4)
    if rates:
        low, high = round(min(rates) - 0.5), round(max(rates) + 0.5)
        ax.set_ylim(low - 0.2, high + 0.2)
        log2_ticks(ax.yaxis, range(low, high + 1))
    _across(ax, multipliers, len(study.widths))
    ax.set_ylabel("best base learning rate")
    ax.set_title("Learning rate", pad=24)


def _draw_losses(ax: Axes, width: MultiplierOptimum, colour: str, index: int) -> None:
    trained = [(each.log2_output_mult, each.loss) for each in width.multipliers if each.loss is not None]
    x, y = [multiplier for multiplier, _ in trained], [loss for _, loss in trained]
    ax.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=4, label=str(width.width), zorder=3)
    seeds = [
        (each.log2_output_mult, loss)
        for each in width.multipliers
        if each.loss is not None
        for loss in each.losses.values()
        if loss is not None
    ]
    ax.scatter([x for x, _ in seeds], [loss for _, loss in seeds], s=9, color=colour, alpha=0.35, linewidth=0, zorder=2)
    best = [(multiplier, loss) for multiplier, loss in trained if multiplier == width.best]
    ax.plot([x for x, _ in best], [y for _, y in best], "o", markersize=10, markerfacecolor="none", color=colour, zorder=4)
    diverged = [each.log2_output_mult for each in width.multipliers if each.loss is None]
    height = 0.98 - _CROSS * index  # a row per line, so that crosses at one multiplier stay apart
    across = ax.get_xaxis_transform()
    ax.plot(diverged, [height] * len(diverged), "x", transform=across, markersize=6, markeredgewidth=1.6, color=colour)


def _draw_optimum(ax: Axes, width: MultiplierOptimum, colour: str, height: float) -> None:
    if width.optimum is None:
        return
    across = ax.get_xaxis_transform()
    if width.interval is not None:
        ax.plot(width.interval, [height, height], transform=across, color=colour, linewidth=3, alpha=0.55, solid_capstyle="round")
    ax.plot(width.optimum, height, "o", transform=across, markersize=5.5, color=colour, markeredgecolor=PAPER, zorder=4)


def _across(ax: Axes, multipliers: list[int], widths: int) -> None:
    ax.set_xlim(multipliers[0] - 0.6, multipliers[-1] + 0.6)
    log2_ticks(ax.xaxis, multipliers)
    ax.set_xlabel("multiplier of the readout")
    ax.legend(loc="lower left", ncols=widths, bbox_to_anchor=(0, 1.01), borderaxespad=0, borderpad=0)
