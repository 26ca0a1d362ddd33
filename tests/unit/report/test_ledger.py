"""Verdicts of the ledger on synthetic evidence: each way that each claim can turn out."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from mudit.report import ledger, paper
from mudit.report.speedup import Speedup
from mudit.select.certificate import AxisName, AxisResult, Regret, SettingResult
from mudit.select.optimum import Interval

from .synthetic import coordcheck, distance


def setting(value: int = 32, best: float = -7.0, interval: tuple[float, float] | None = (-7.5, -6.5)) -> SettingResult:
    return SettingResult(
        value=value,
        setting=f"mup_w{value}_b64",
        steps=200,
        curve=[],
        best_log2_lr=best,
        best_loss=0.14,
        optimum=best,
        interval=interval,
        vertices={0: best},
        at_stability_edge=False,
    )


def axis(
    verdict: Literal["transfers", "drifts", "undecided"],
    interval: tuple[float, float] | None = (-0.4, -0.1),
    scheme: str = "mup",
    name: AxisName = "width",
) -> AxisResult:
    return AxisResult(
        axis=name,
        scheme=scheme,
        algorithm="Algorithm 1",
        settings=[setting(16), setting(32)],
        drift=-0.3,
        drift_interval=interval,
        verdict=verdict,
        regret=regret(0.0),
    )


def regret(relative: float | None, interval: tuple[float, float] | None = (0.0, 0.0)) -> Regret:
    return Regret(value=128, log2_lr=-7, seeds=3, relative=relative, interval=interval)


def speedup(mean: float, low: float | None = None, high: float | None = None) -> Speedup:
    return Speedup({0: mean, 1: mean}, {}, mean, None if low is None or high is None else Interval(low, high))


def no_speedup(*who: str) -> Speedup:
    return Speedup({}, dict(enumerate(who)), None, None)


class TestGate:
    def test_flat_under_mup_only_reproduces(self) -> None:
        row = ledger.gate_row(coordcheck())
        assert row.verdict == "reproduced"
        assert row.interval == pytest.approx((-0.08, 0.12))

    def test_failing_mup_contradicts(self) -> None:
        assert ledger.gate_row(coordcheck(mup_failed=3)).verdict == "contradicted"

    def test_a_control_that_passes_decides_nothing(self) -> None:
        assert ledger.gate_row(coordcheck(sp_failed=0)).verdict == "undecided"

    def test_a_slope_that_is_no_number_has_no_value(self) -> None:
        report = coordcheck(mup_failed=1)
        report["schemes"]["mup"]["worst"] |= {"slope": float("nan"), "low": float("nan"), "high": float("nan")}
        row = ledger.gate_row(report)
        assert (row.value, row.interval) == (None, None)


class TestDrift:
    @pytest.mark.parametrize(
        ("found", "expected"), [("transfers", "reproduced"), ("drifts", "contradicted"), ("undecided", "undecided")]
    )
    def test_mup_is_claimed_to_stay(self, found: Any, expected: str) -> None:
        assert ledger.drift_row(axis(found), 0.25).verdict == expected

    @pytest.mark.parametrize(
        ("found", "expected"), [("transfers", "contradicted"), ("drifts", "reproduced"), ("undecided", "undecided")]
    )
    def test_sp_is_expected_to_move_with_width(self, found: Any, expected: str) -> None:
        assert ledger.drift_row(axis(found, scheme="sp"), 0.25).verdict == expected

    def test_nothing_is_claimed_of_sp_along_other_axes(self) -> None:
        assert ledger.drift_row(axis("drifts", scheme="sp", name="steps"), 0.25).verdict == "measured"

    def test_a_contradiction_says_direction_and_factor(self) -> None:
        finding = ledger.drift_row(axis("drifts"), 0.25).finding
        assert "falls by a factor of 1.23" in finding
        assert "0.10, would still pass" in finding

    def test_a_missing_interval_is_said(self) -> None:
        row = ledger.drift_row(axis("undecided", interval=None), 0.25)
        assert "no interval" in row.ours
        assert "single seed" in row.finding


class TestBaseRate:
    def test_other_data_is_measured_beside_the_paper(self) -> None:
        row = ledger.base_lr_row(setting(), [setting()], 32, comparable=False)
        assert row.verdict == "measured"
        assert row.finding.startswith("8 times")

    @pytest.mark.parametrize(
        ("best", "interval", "expected"),
        [
            (-10, (-10.4, -9.6), "reproduced"),
            (-8, (-8.4, -7.6), "contradicted"),
            (-9, (-10.5, -8), "undecided"),
            (-9, None, "undecided"),
        ],
    )
    def test_the_papers_own_model_is_held_against_it(self, best: float, interval: Any, expected: str) -> None:
        assert ledger.base_lr_row(setting(288, best, interval), [], 288, comparable=True).verdict == expected


class TestRegret:
    @pytest.mark.parametrize(
        ("found", "gain", "expected"),
        [
            (regret(0.0), None, "reproduced"),
            (regret(0.01, (0.0, 0.02)), 0.03, "reproduced"),
            (regret(0.01, (0.0, 0.04)), 0.03, "undecided"),
            (regret(0.06, (0.04, 0.08)), 0.03, "contradicted"),
            (regret(0.01, (0.0, 0.02)), None, "undecided"),
            (regret(0.01, None), 0.03, "undecided"),
            (regret(None, None), 0.03, "contradicted"),
        ],
    )
    def test_is_judged_by_what_a_doubling_of_width_gains(self, found: Regret, gain: float | None, expected: str) -> None:
        assert ledger.regret_row("mup", found, setting(), setting(128), gain).verdict == expected

    def test_of_the_control_is_only_measured(self) -> None:
        row = ledger.regret_row("sp", regret(None, None), setting(), setting(128), 0.03)
        assert (row.verdict, row.ours) == ("measured", "diverges")


class TestSpeedup:
    def row(self, found: Speedup, *, published: bool = True) -> ledger.Row:
        return ledger.speedup_row("mup", "sp-published", found, published=published, artefacts=())

    def test_faster_reproduces_and_places_the_papers_value(self) -> None:
        row = self.row(speedup(2.5, 2.0, 3.1))
        assert (row.verdict, row.ours) == ("reproduced", "2.50× [2.00, 3.10]")
        assert "2.9 is inside the interval" in row.finding

    def test_slower_contradicts_and_says_the_fraction(self) -> None:
        row = self.row(speedup(0.8, 0.7, 0.9))
        assert row.verdict == "contradicted"
        assert "80 %" in row.finding

    def test_an_interval_around_one_decides_nothing(self) -> None:
        assert self.row(speedup(1.1, 0.9, 1.3)).verdict == "undecided"

    def test_a_single_seed_decides_nothing(self) -> None:
        row = self.row(speedup(3.0))
        assert row.verdict == "undecided"
        assert "no interval" in row.ours

    def test_a_diverged_baseline_has_no_factor(self) -> None:
        row = self.row(no_speedup("baseline", "baseline"))
        assert (row.verdict, row.ours) == ("undecided", "no factor")
        assert "diverged in 2 of 2 seeds" in row.finding

    def test_a_diverged_subject_contradicts(self) -> None:
        assert self.row(no_speedup("subject")).verdict == "contradicted"

    def test_arms_beyond_the_paper_are_measured_and_still_say_slower(self) -> None:
        row = self.row(speedup(0.8, 0.7, 0.9), published=False)
        assert row.verdict == "measured"
        assert row.finding.startswith("slower")


class TestDistance:
    def row(self, ours: dict[int, Any], theirs: dict[int, Any], metric: str = "frechet_distance") -> ledger.Row:
        return ledger.distance_row("mup", "sp-published", metric, ours, theirs)

    @pytest.mark.parametrize(
        ("ours", "theirs", "expected"), [(3.0, 9.0, "reproduced"), (9.0, 3.0, "contradicted"), (3.0, 3.5, "undecided")]
    )
    def test_one_seed_is_judged_by_the_spread_over_images(self, ours: float, theirs: float, expected: str) -> None:
        row = self.row({0: distance("frechet_distance", ours)}, {0: distance("frechet_distance", theirs)})
        assert row.verdict == expected
        assert "one training seed" in row.finding

    def test_several_seeds_are_judged_by_their_spread(self) -> None:
        ours = {seed: distance("frechet_distance", 3.0 + 0.1 * seed, half=50) for seed in range(3)}
        theirs = {seed: distance("frechet_distance", 9.0) for seed in range(3)}
        assert self.row(ours, theirs).verdict == "reproduced"

    def test_no_value_gives_the_reason(self) -> None:
        row = self.row({0: distance("frechet_distance", None)}, {0: distance("frechet_distance", 9.0)})
        assert row.verdict == "undecided"
        assert "not finite" in row.finding

    def test_the_kernel_distance_is_not_in_the_paper(self) -> None:
        row = self.row({0: distance("kernel_distance", 1.0)}, {0: distance("kernel_distance", 9.0)}, "kernel_distance")
        assert row.verdict == "measured"


class TestSummary:
    def test_counts_verdicts(self) -> None:
        rows = [ledger.drift_row(axis("transfers"), 0.25), ledger.drift_row(axis("drifts"), 0.25)]
        expected = "Of 2 claims tested here, 1 reproduced, 1 contradicted and 0 undecided; 1 more need a cluster."
        assert ledger.summary([*rows, ledger.not_run_row(paper.NOT_RUN[0])]) == expected

    def test_headline_says_a_contradiction_plainly(self) -> None:
        rows = [ledger.drift_row(axis("drifts"), 0.25), ledger.drift_row(axis("transfers", scheme="sp"), 0.25)]
        assert ledger.headline(rows) == "Under μP the best learning rate moves as width grows; under SP it stays too."

    def test_headline_says_that_one_seed_is_one_seed(self) -> None:
        row = ledger.speedup_row("mup", "sp-tuned", speedup(1.1), published=False, artefacts=())
        assert ledger.headline([row]) == "Speed-up with the transferred rate: 1.1× against sp-tuned (one seed)."

    def test_headline_calls_no_difference_a_speed_up(self) -> None:
        row = ledger.speedup_row("mup", "sp-tuned", speedup(1.1, 0.9, 1.3), published=False, artefacts=())
        assert ledger.headline([row]) == "Speed-up with the transferred rate: none beyond the spread of seeds against sp-tuned."
