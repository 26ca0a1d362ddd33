"""A random search in pictures: every trial's loss against each hyperparameter, its effect with the others averaged out, and shares.

Dots are trials, coloured by their learning rate from low (light) to high (dark); rings were run with every seed, the thick one was
chosen; crosses at the top edge diverged. Below them the fitted mean rank with its interval, 0 best and 1 worst, and at the foot the
fitted best value with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mudit.config.search import LogRange, StepRange
from mudit.report.ledger.search import NAMES, sensitivity
from mudit.report.style import GRID, INK, MUTED, PAPER, RAMP, SERIES, log2_ticks
from mudit.report.transfer_figure import loss_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mudit.search.records import SearchResult, SearchTrial, Sensitivity

_WORST = 4.0  # losses above this multiple of the best stand at the top edge, open: what matters happens near the best
_DECIMALS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def trials_panel(ax: Axes, result: SearchResult, name: str) -> None:
    """Loss of the first seed against one hyperparameter."""
    losses = [trial.loss for trial in result.trials if trial.loss is not None]
    low = min(losses) * 0.97
    high = min(max(losses) * 1.05, low * _WORST)
    ax.set_yscale("log")
    ax.set_ylim(low, high * (high / low) ** 0.08)
    ax.axhline(high, color=GRID, linewidth=0.8)
    colours = _colours(result)
    for trial in result.trials:
        value, colour = getattr(trial.draw, name), colours[trial.number]
        if trial.loss is None:
            ax.plot(value, 0.97, "x", transform=ax.get_xaxis_transform(), color=colour, markersize=5, markeredgewidth=1.5)
        elif trial.loss > high:
            ax.plot(value, 0.97, "^", transform=ax.get_xaxis_transform(), color=colour, markerfacecolor=PAPER, markersize=4.5)
        else:
            ax.plot(value, trial.loss, "o", color=colour, markersize=4.2, markeredgewidth=0, zorder=3)
    for number in result.confirmed:
        trial = result.trials[number]
        assert trial.loss is not None, "confirmed trials trained"
        width = 2.0 if number == result.best.number else 0.9
        x, y = getattr(trial.draw, name), trial.loss
        ax.plot(x, y, "o", markersize=9, markerfacecolor="none", color=INK, markeredgewidth=width, zorder=4)
    ticks = loss_ticks(low, high)
    ax.yaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_ticks([], minor=True)
    _along(ax, name, result.ranges[name])
    ax.tick_params(axis="x", labelbottom=False)
    ax.set_xlabel("")
    ax.set_ylabel("validation mse")
    ax.set_title(NAMES[name][0].upper() + NAMES[name][1:])


def effect_panel(ax: Axes, result: SearchResult, name: str) -> None:
    """Fitted mean rank against one hyperparameter; empty if the trials were too few for a fit."""
    found = sensitivity(result, name)
    if found is not None:
        values = [point.value for point in found.curve]
        low, high = [point.interval[0] for point in found.curve], [point.interval[1] for point in found.curve]
        ax.fill_between(values, low, high, color=SERIES[0], alpha=0.16, linewidth=0)
        ax.plot(values, [point.rank for point in found.curve], color=SERIES[0], linewidth=1.8)
        across = ax.get_xaxis_transform()
        low_high, foot = found.best_interval, (0.07, 0.07)
        ax.plot(low_high, foot, transform=across, color=SERIES[0], linewidth=3, alpha=0.55, solid_capstyle="round")
        ax.plot(found.best, 0.07, "o", transform=across, color=SERIES[0], markersize=5.5, markeredgecolor=PAPER, zorder=4)
    ax.set_ylim(-0.22, 1.02)
    ax.set_yticks([0, 0.5, 1])
    _along(ax, name, result.ranges[name])
    ax.set_ylabel("mean rank")


def shares_panel(ax: Axes, result: SearchResult) -> None:
    """A row per hyperparameter: share of the ranks' variance with its interval, chance, and fANOVA's opinion."""
    found = result.sensitivities or []
    for row, each in enumerate(found):
        _draw_share(ax, each, row)
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_yticks(range(len(found)), [NAMES[each.name] for each in found])
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    lowest = min([0.0, *(each.interval[0] for each in found)])
    highest = max([0.3, *(value for each in found for value in (each.interval[1], each.fanova))])
    ax.set_xlim(100 * lowest - 3, min(103.0, 100 * highest + 5))
    ax.set_xlabel("% of the variance of the trials' ranks")
    ax.set_title("How much each hyperparameter matters")
    _legend(ax)


def _draw_share(ax: Axes, each: Sensitivity, row: int) -> None:
    ax.plot([100 * value for value in each.interval], (row, row), color=SERIES[0], linewidth=3, alpha=0.55, solid_capstyle="round")
    ax.plot(100 * each.share, row, "o", color=SERIES[0], markersize=7, markeredgecolor=PAPER, zorder=3)
    ax.plot(100 * each.fanova, row + 0.24, "D", color=SERIES[1], markersize=5, markerfacecolor=PAPER, zorder=3)
    ax.plot((100 * each.chance, 100 * each.chance), (row - 0.2, row + 0.2), color=MUTED, linewidth=1.4)


def _legend(ax: Axes) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=SERIES[0], marker="o", markersize=6, linewidth=3, markeredgecolor=PAPER),
        Line2D([], [], color=SERIES[1], marker="D", markersize=5, markerfacecolor=PAPER, linestyle=""),
        Line2D([], [], color=MUTED, marker="|", markersize=9, markeredgewidth=1.4, linestyle=""),
    ]
    texts = ["its quadratic alone, with interval", "fANOVA", "what chance reaches"]
    ax.legend(handles, texts, loc="upper center", bbox_to_anchor=(0.45, -0.24), ncols=3, handletextpad=0.5)


def _colours(result: SearchResult) -> dict[int, str]:
    """Trial -> colour by its learning rate, spread over the range that was searched."""
    each = result.ranges["log2_lr"]
    shares = {trial.number: (trial.draw.log2_lr - each.low) / (each.high - each.low) for trial in result.trials}
    return {number: RAMP[min(len(RAMP) - 1, int(share * len(RAMP)))] for number, share in shares.items()}


def _along(ax: Axes, name: str, each: LogRange | StepRange) -> None:
    """The hyperparameter's own axis, in its usual unit."""
    margin = 0.04 * (each.high - each.low)
    ax.set_xlim(each.low - margin, each.high + margin)
    if isinstance(each, StepRange):
        ax.set_xlabel(f"{NAMES[name]}, steps")
    elif name == "log2_lr":
        log2_ticks(ax.xaxis, range(math.ceil(each.low), math.floor(each.high) + 1))
        ax.set_xlabel(f"base {NAMES[name]}")
    else:
        ticks = _decimals(each.low, each.high)
        ax.set_xticks([math.log2(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
        ax.set_xlabel(NAMES[name])


def _decimals(low: float, high: float) -> Sequence[float]:
    """Round values inside a range of base-2 logarithms: powers of ten where there are three, else 1, 2, 5 as well."""
    inside = [value for value in _DECIMALS if low - 0.01 <= math.log2(value) <= high + 0.01]
    tens = [value for value in inside if math.isclose(math.log10(value) % 1, 0, abs_tol=1e-9)]
    return tens if len(tens) >= 3 else inside


def numbers_of(trials: Sequence[SearchTrial]) -> str:
    """For screen readers: how many trials the picture shows."""
    return f"{len(trials)} trials, {sum(trial.loss is None for trial in trials)} diverged"
