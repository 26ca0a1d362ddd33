"""Sensitivities: exact where the answer is known, honest in simulation, the same every time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mudit.config.search import LogRange, StepRange
from mudit.search.records import Draw
from mudit.search.sensitivity import MIN_TRIALS, _effects, _shares, sensitivities
from mudit.search.space import distributions

from .test_space import section

RANGES = {
    "log2_lr": LogRange(low=-11, high=-4),
    "log2_clip_norm": LogRange(low=-6, high=4),
    "log2_alignment_weight": LogRange(low=-4, high=1),
    "warmup_steps": StepRange(low=0, high=60),
}


def _draws(count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        Draw(
            log2_lr=generator.uniform(-11, -4),
            log2_clip_norm=generator.uniform(-6, 4),
            log2_alignment_weight=generator.uniform(-4, 1),
            warmup_steps=int(generator.integers(0, 61)),
        )
        for _ in range(count)
    ]


def _judge(draws, losses, confidence=0.95, resamples=200):
    space = distributions(section(log2_clip_norm=RANGES["log2_clip_norm"]))
    found = sensitivities(draws, losses, RANGES, space, confidence=confidence, resamples=resamples)
    assert [each.name for each in found] == list(RANGES)
    return {each.name: each for each in found}


def test_the_one_that_matters_is_found_and_its_best_value_too():
    draws = _draws(80)
    found = _judge(draws, [(draw.log2_lr + 8) ** 2 for draw in draws])
    lr = found["log2_lr"]
    assert lr.share > 0.8 and lr.interval[0] > lr.chance and lr.fanova > 0.9
    assert lr.best_interval[0] <= -8 <= lr.best_interval[1] and lr.best == pytest.approx(-8, abs=0.5)
    assert lr.curve[0].value == -11 and lr.curve[-1].value == -4
    assert min(lr.curve, key=lambda point: point.rank).value == pytest.approx(-8, abs=1)
    for name in ("log2_clip_norm", "log2_alignment_weight", "warmup_steps"):
        assert found[name].interval[0] < 0.05 and found[name].fanova < 0.05


def test_a_monotone_effect_is_best_at_the_end_of_the_range():
    draws = _draws(80)
    found = _judge(draws, [float(draw.warmup_steps) for draw in draws])["warmup_steps"]
    assert found.best == 0 and found.best_interval[0] == 0 and found.share > 0.95


def test_diverged_trials_are_the_worst_and_are_not_dropped():
    """Where losses are level until a cliff, only the diverged trials say that the learning rate matters."""
    draws = _draws(80)
    noise = np.random.default_rng(1).normal(size=80)
    losses = [math.inf if draw.log2_lr > -6 else 0.5 + 0.01 * noise[index] for index, draw in enumerate(draws)]
    found = _judge(draws, losses)["log2_lr"]
    assert found.interval[0] > found.chance and found.curve[-1].rank > 0.8
    assert all(math.isfinite(bound) for bound in found.interval)


def test_any_monotone_change_of_the_losses_changes_nothing():
    draws = _draws(40)
    losses = [(draw.log2_lr + 8) ** 2 + 0.1 * draw.log2_clip_norm for draw in draws]
    assert _judge(draws, losses) == _judge(draws, [math.exp(3 * loss) for loss in losses])


def test_equal_losses_explain_nothing():
    found = _judge(_draws(30), [0.5] * 30, resamples=20)
    assert all(each.share <= 0 and each.fanova == 0 and math.isfinite(each.best) for each in found.values())


def test_fewer_trials_than_the_fit_needs_are_refused():
    with pytest.raises(AssertionError, match="too few trials"):
        _judge(_draws(MIN_TRIALS - 1), [1.0] * (MIN_TRIALS - 1))


def _search(generator, count):
    """A search like the paper's: the learning rate decides and diverges, clip has a mild optimum, the third hardly matters."""
    u = generator.uniform(-1, 1, (count, 4))
    loss = 1.5 * (u[:, 0] - 0.3) ** 2 + 0.2 * (u[:, 1] - 0.4) ** 2 + 0.02 * u[:, 2] + 0.05 * generator.normal(size=count)
    return u, np.where(u[:, 0] > 0.75, np.inf, loss)


def test_simulated_coverage_is_what_is_stated():
    """80 trials: intervals of share, best value and difference hold those of an endless search; chance is seldom exceeded."""
    generator = np.random.default_rng(0)
    u, loss = _search(generator, 100_000)
    share_H, (curve_HG, best_H) = _shares(u, loss), _effects(u, loss)
    difference_H = curve_HG[:, 1] - curve_HG[:, 5]
    studies, resamples, count = 120, 200, 80
    covered, unranked, located, told_apart, exceeded = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4), 0
    for _ in range(studies):
        u, loss = _search(generator, count)
        picks = generator.integers(0, count, (resamples, count))
        low, high = np.quantile(_shares(u[picks], loss[picks]), [0.025, 0.975], axis=0)
        covered += (low <= share_H) & (share_H <= high)
        curve_RHG, best_RH = _effects(u[picks], loss[picks])
        low, high = np.quantile(best_RH, [0.025, 0.975], axis=0)
        located += (low <= best_H) & (best_H <= high)
        low, high = np.quantile(curve_RHG[..., 1] - curve_RHG[..., 5], [0.025, 0.975], axis=0)
        told_apart += (low <= difference_H) & (difference_H <= high)
        low, high = np.quantile(_once_ranked(u, loss, picks), [0.025, 0.975], axis=0)
        unranked += (low <= share_H) & (share_H <= high)
        shuffled = generator.permuted(np.tile(loss, (resamples, 1)), axis=1)
        chance_H = np.quantile(_shares(np.broadcast_to(u, (resamples, *u.shape)), shuffled), 0.95, axis=0)
        exceeded += _shares(u, loss)[3] > chance_H[3]
    assert (covered / studies > 0.90).all() and covered[0] / studies < 0.99
    assert (located[:2] / studies > 0.87).all()  # 0.95 in 500 studies; the noise of 120 is 0.02
    assert (told_apart[1:] / studies > 0.87).all()  # 0.93 to 0.95 in 500 studies
    assert unranked[0] / studies < 0.90, "ranks kept from the full set: why each resample is ranked again"
    assert exceeded / studies < 0.12


def _once_ranked(u, loss, picks):
    ranks = np.argsort(np.argsort(loss)).astype(float)
    ranks[np.isinf(loss)] = ranks[np.isinf(loss)].mean() if np.isinf(loss).any() else 0
    shares = []
    for pick in picks:
        x, y = u[pick], ranks[pick]
        row = []
        for h in range(4):
            design = np.stack([np.ones(len(pick)), x[:, h], x[:, h] ** 2], -1)
            residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
            row.append(1 - (residual @ residual) / np.square(y - y.mean()).sum() * (len(pick) - 1) / (len(pick) - 3))
        shares.append(row)
    return np.array(shares)
