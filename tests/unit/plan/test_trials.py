"""Trials of sweeps and searches, against the sweep's own planner."""

from __future__ import annotations

import random
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.config.schema import Experiment
from mudit.plan.trials import search_rounds, sweep_rounds
from mudit.sweep.plan import Grid, next_trials
from support import changed


def test_the_desk_sweep_asks_for_three_points_and_three_seeds_at_each(desk: Experiment):
    assert sweep_rounds(desk.sweep, worst=False) == [3, 6]
    assert sum(sweep_rounds(desk.sweep, worst=True)) == 11 * 3


def test_one_seed_walks_the_grid_and_nothing_more(desk: Experiment):
    assert sweep_rounds(changed(desk.sweep, seeds=[0]), worst=False) == [3]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.integers(1, 2))
def test_no_losses_whatever_ask_for_more_than_the_worst_case(seed, seeds, below, above, horizons):
    draw = random.Random(seed)
    grid = Grid((-8.0, -7.0, -6.0), -8.0 - below, -6.0 + above, tuple(range(seeds)))
    points = [grid.low + step for step in range(3 + below + above)]
    losses = {
        (point, each): {horizon: draw.choice([draw.random(), float("inf")]) for horizon in range(horizons)}
        for point, each in product(points, range(seeds))
    }
    done: dict = {}
    while wanted := next_trials(grid, done, tuple(range(horizons))):
        done |= {trial: losses[trial] for trial in wanted}
    from mudit.plan.trials import _worst

    assert len(done) <= sum(_worst(grid))
    assert sum(_worst(grid)) == len(points) * seeds


def test_a_search_confirms_its_best_with_the_other_seeds():
    from mudit.config.load import load
    from support import ROOT

    search = load(ROOT / "config.yaml").experiments["mmdit-emoji"].search
    assert search_rounds(search) == [80, 10]
    assert search_rounds(changed(search, seeds=[0])) == [80]
