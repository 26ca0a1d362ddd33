"""The plan of a sweep: finds the optimum of any valley within its range, with all seeds where it decides."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.sweep.plan import Grid, mean_losses, next_trials

GRID = Grid(log2_lr=(-9.0, -8.0, -7.0, -6.0), low=-13.0, high=-3.0, seeds=(0, 1, 2))


def _sweep(grid, loss, horizons=(100,)):
    """Run the plan to its end against a loss function; returns the losses and the number of rounds."""
    losses, rounds = {}, 0
    while wanted := next_trials(grid, losses, horizons):
        assert not set(wanted) & losses.keys(), "a trial was asked for twice"
        assert len(set(wanted)) == len(wanted)
        losses |= {trial: {horizon: loss(*trial, horizon) for horizon in horizons} for trial in wanted}
        rounds += 1
        assert rounds < 40
    return losses, rounds


def _valley(centre, edge=math.inf, noise=0.0):
    def loss(point, seed, horizon):
        wobble = noise * math.sin(37.0 * point + 11.0 * seed + horizon)
        return math.inf if point > edge else 0.13 + 0.01 * (point - centre) ** 2 + wobble

    return loss


@pytest.mark.parametrize("centre", [-12.2, -9.0, -7.4, -5.1, -3.8])
def test_the_grid_grows_until_the_optimum_is_inside(centre):
    losses, _ = _sweep(GRID, _valley(centre))
    means = mean_losses(losses, 100, GRID.seeds)
    best = min(means, key=means.get)
    assert best == round(centre)
    assert {best - 1, best + 1} <= means.keys(), "both neighbours need every seed"


def test_only_the_deciding_points_get_every_seed():
    losses, _ = _sweep(GRID, _valley(-7.4))
    assert sorted({point for point, seed in losses if seed == 2}) == [-8.0, -7.0, -6.0]
    assert len(losses) == 4 + 6


def test_the_range_is_never_left_and_an_edge_is_left_to_the_selection():
    losses, _ = _sweep(GRID, _valley(-1.0))
    assert max(point for point, _ in losses) == -3.0
    losses, _ = _sweep(GRID, _valley(-20.0))
    assert min(point for point, _ in losses) == -13.0


def test_growth_stops_at_a_diverged_neighbour():
    losses, _ = _sweep(GRID, _valley(-4.0, edge=-6.5))
    assert max(point for point, _ in losses) == -6.0, "the diverged neighbour is measured, and nothing beyond it"
    means = mean_losses(losses, 100, GRID.seeds)
    assert min(means, key=means.get) == -7.0 and math.isinf(means[-6.0])


def test_a_first_grid_that_diverged_walks_down():
    losses, _ = _sweep(GRID, _valley(-10.5, edge=-9.5))
    means = mean_losses(losses, 100, GRID.seeds)
    assert min(means, key=means.get) in (-10.0, -11.0)


def test_everything_diverging_ends():
    losses, _ = _sweep(GRID, _valley(-7, edge=-99))
    assert min(point for point, _ in losses) == -13.0


def test_every_horizon_gets_its_own_bracket():
    def loss(point, seed, horizon):
        return (point - {100: -4.9, 400: -8.2}[horizon]) ** 2

    losses, _ = _sweep(GRID, loss, horizons=(100, 400))
    for horizon, best in ((100, -5.0), (400, -8.0)):
        means = mean_losses(losses, horizon, GRID.seeds)
        assert min(means, key=means.get) == best and {best - 1, best + 1} <= means.keys()


def test_a_best_point_that_moves_with_more_seeds_is_followed():
    """The first seed's best is -8, the mean's best is -6: the plan must not stop at the first seed's word."""

    def loss(point, seed, horizon):
        return abs(point + 8) if seed == 0 else 3 * abs(point + 6)

    losses, _ = _sweep(GRID, loss)
    means = mean_losses(losses, 100, GRID.seeds)
    best = min(means, key=means.get)
    assert {best - 1, best + 1} <= means.keys() and best > -8


@settings(deadline=None, max_examples=200)
@given(
    centre=st.floats(-14, -2),
    edge=st.floats(-14, -2),
    noise=st.floats(0, 0.05),
    seeds=st.integers(1, 4),
    horizons=st.sampled_from([(100,), (100, 200, 400)]),
)
def test_any_landscape_ends_with_a_settled_optimum(centre, edge, noise, seeds, horizons):
    grid = Grid(GRID.log2_lr, GRID.low, GRID.high, tuple(range(seeds)))
    losses, _ = _sweep(grid, _valley(centre, edge, noise), horizons)
    for horizon in horizons:
        means = mean_losses(losses, horizon, grid.seeds)
        finite = {point: mean for point, mean in means.items() if math.isfinite(mean)}
        for point in (best := min(finite, key=finite.get)) and (best - 1, best + 1) if finite else ():
            assert point in means or not grid.low <= point <= grid.high
