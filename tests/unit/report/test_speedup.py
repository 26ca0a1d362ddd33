"""Speed-up: interpolation between records, both directions, pairing by seed, divergence."""

from __future__ import annotations

import math

import pytest

from mudit.report.speedup import factor, measure, steps_to

STEPS = list(range(100, 1001, 100))


def curve(rate: float, steps: list[int] = STEPS) -> tuple[list[int], list[float]]:
    return steps, [math.exp(-rate * step) for step in steps]


def test_steps_between_records_are_exact_for_an_exponential() -> None:
    reached = steps_to(curve(0.002), math.exp(-0.002 * 437))
    assert reached == pytest.approx(437)


def test_a_loss_below_the_curve_is_never_reached() -> None:
    assert steps_to(curve(0.002), 1e-9) is None


def test_a_level_above_the_first_record_counts_as_that_record() -> None:
    assert steps_to(curve(0.002), 1.0) == 100


def test_twice_the_rate_is_twice_as_fast() -> None:
    assert factor(curve(0.004), curve(0.002)) == pytest.approx(2)


def test_half_the_rate_is_half_as_fast_though_the_baseline_is_never_reached() -> None:
    assert factor(curve(0.002), curve(0.004)) == pytest.approx(0.5)


def test_factors_are_averaged_as_logarithms() -> None:
    subject = {0: curve(0.008), 1: curve(0.002), 2: curve(0.004)}
    baseline = {0: curve(0.004), 1: curve(0.004), 2: curve(0.004)}
    speedup = measure(subject, baseline, 0.95)
    assert speedup.mean == pytest.approx(1)
    assert speedup.interval is not None
    assert speedup.interval.low == pytest.approx(1 / speedup.interval.high)


def test_only_seeds_of_both_arms_count_and_one_gives_no_interval() -> None:
    speedup = measure({0: curve(0.004), 1: curve(0.1)}, {0: curve(0.002)}, 0.95)
    assert speedup.factors == {0: pytest.approx(2)}
    assert speedup.mean == pytest.approx(2)
    assert speedup.interval is None


@pytest.mark.parametrize(
    ("subject", "baseline", "who"), [(None, curve(1e-3), "subject"), (curve(1e-3), None, "baseline"), (None, None, "both")]
)
def test_a_diverged_run_leaves_no_factor(subject: object, baseline: object, who: str) -> None:
    speedup = measure({0: subject, 1: curve(1e-3)}, {0: baseline, 1: curve(1e-3)}, 0.95)  # type: ignore[dict-item]
    assert speedup.diverged == {0: who}
    assert speedup.mean is None
    assert speedup.interval is None
