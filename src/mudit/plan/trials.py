"""How many trials a sweep or search will run, and how many of them side by side. Imports no torch.

A sweep's number is not known before it runs: its grid grows while the best point is at the edge. *Expected* is what the planner
(`mudit.sweep.plan`) asks for if every horizon's optimum lies in the middle of the first grid; *worst* is every point of the range
by every seed, which nothing can exceed.
"""

from __future__ import annotations

from mudit.config.search import SearchSection, SweepSection
from mudit.sweep.plan import Grid, next_trials

Rounds = list[int]  # trials that may run side by side, round after round


def sweep_rounds(sweep: SweepSection, *, worst: bool) -> Rounds:
    """Of one setting."""
    grid = Grid.of(sweep)
    return _worst(grid) if worst else _expected(grid)


def search_rounds(search: SearchSection) -> Rounds:
    """Every trial with the first seed, then the best with the others."""
    again = min(search.confirm, search.trials) * (len(search.seeds) - 1)
    return [search.trials, again] if again else [search.trials]


def _expected(grid: Grid) -> Rounds:
    middle = grid.log2_lr[len(grid.log2_lr) // 2]
    losses: dict[tuple[float, int], dict[int, float]] = {}
    rounds = []
    while wanted := next_trials(grid, losses, (1,)):
        rounds.append(len(wanted))
        losses |= {(log2_lr, seed): {1: (log2_lr - middle) ** 2} for log2_lr, seed in wanted}
    return rounds


def _worst(grid: Grid) -> Rounds:
    """The first seed walks to the end of the range a point at a time; then the others follow a point at a time."""
    points, seeds = round((grid.high - grid.low) / grid.spacing) + 1, len(grid.seeds)
    walk = [len(grid.log2_lr)] + [1] * (points - len(grid.log2_lr))
    if seeds == 1:
        return walk
    around = min(3, points)
    return walk + [around * (seeds - 1)] + [seeds - 1] * (points - around)
