"""Which trials come next: a pure function of the grid and the results so far. Imports no torch.

1. The first seed walks the first grid, and the grid grows by one step while the best point is at its edge.
2. Every seed measures the best point and its two neighbours, until the best of the points with all seeds has both neighbours
   measured with all seeds too.
A diverged run counts as an infinite loss: it is a result, and a point beyond which the grid need not grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mudit.config.search import SweepSection


@dataclass(frozen=True)
class Grid:
    """log2 learning rates: a first, evenly spaced grid and the range within which it may grow; seeds, the walking one first."""

    log2_lr: tuple[float, ...]
    low: float
    high: float
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, sweep: SweepSection) -> Grid:
        """As configured."""
        return cls(tuple(sweep.log2_lr), sweep.log2_lr_min, sweep.log2_lr_max, tuple(sweep.seeds))

    @property
    def spacing(self) -> float:
        return self.log2_lr[1] - self.log2_lr[0]

    def above(self, log2_lr: float) -> float | None:
        """The next point up, or None beyond the range."""
        point = round(log2_lr + self.spacing, 9)
        return point if point <= self.high + 1e-9 else None

    def below(self, log2_lr: float) -> float | None:
        """The next point down, or None beyond the range."""
        point = round(log2_lr - self.spacing, 9)
        return point if point >= self.low - 1e-9 else None


# (log2 lr, seed) -> horizon in steps -> loss; infinite where the run had diverged
Losses = Mapping[tuple[float, int], Mapping[int, float]]


def next_trials(grid: Grid, losses: Losses, horizons: tuple[int, ...]) -> list[tuple[float, int]]:
    """The trials (log2 lr, seed) to run now; empty when every horizon's optimum is settled. Sorted, without repeats.

    All proposals of one call are independent of each other, so they can run side by side.
    """
    first = grid.seeds[0]
    wanted = {(point, first) for point in grid.log2_lr}
    missing = wanted - losses.keys()
    if missing:
        return sorted(missing, key=lambda trial: (trial[1], trial[0]))
    for horizon in horizons:
        wanted |= _growth(grid, losses, horizon)
    missing = wanted - losses.keys()
    if missing:
        return sorted(missing, key=lambda trial: (trial[1], trial[0]))
    for horizon in horizons:
        wanted |= _deciding(grid, losses, horizon)
    return sorted(wanted - losses.keys(), key=lambda trial: (trial[1], trial[0]))


def mean_losses(losses: Losses, horizon: int, seeds: tuple[int, ...]) -> dict[float, float]:
    """log2 lr -> mean loss over the seeds, for the points that every seed has measured; infinite if any seed diverged."""
    points = sorted({point for point, _ in losses})
    return {
        point: sum(losses[point, seed][horizon] for seed in seeds) / len(seeds)
        for point in points
        if all((point, seed) in losses for seed in seeds)
    }


def _growth(grid: Grid, losses: Losses, horizon: int) -> set[tuple[float, int]]:
    """The neighbour beyond the edge, if the first seed's best point is there."""
    means = mean_losses(losses, horizon, grid.seeds[:1])
    best = _best(means)
    if best is None:
        beyond = grid.below(min(means))  # everything diverged: only smaller rates can help
        return set() if beyond is None else {(beyond, grid.seeds[0])}
    neighbours = (grid.below(best) if best == min(means) else None, grid.above(best) if best == max(means) else None)
    return {(point, grid.seeds[0]) for point in neighbours if point is not None}


def _deciding(grid: Grid, losses: Losses, horizon: int) -> set[tuple[float, int]]:
    """All seeds at the best point and its neighbours: by the first seed until that is measured, then by the mean of all."""
    best_of_first = _best(mean_losses(losses, horizon, grid.seeds[:1]))
    if best_of_first is None:
        return set()
    wanted = _around(grid, best_of_first)
    if wanted - losses.keys():
        return wanted
    best_of_all = _best(mean_losses(losses, horizon, grid.seeds))
    return wanted if best_of_all is None else wanted | _around(grid, best_of_all)


def _around(grid: Grid, best: float) -> set[tuple[float, int]]:
    points = (grid.below(best), best, grid.above(best))
    return {(point, seed) for point in points if point is not None for seed in grid.seeds}


def _best(means: Mapping[float, float]) -> float | None:
    finite = {point: loss for point, loss in means.items() if math.isfinite(loss)}
    return min(finite, key=finite.__getitem__) if finite else None
