"""Rows that compare the quality of two arms: H3's images, and the claims H4 and H5 of being better than the baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mudit.report import paper
from mudit.report.ledger.quality import Contest, limit, loss_row, metric_row
from mudit.report.ledger.row import Row

from ..synthetic import distance, score

CLAIM = paper.BETTER["pixart"]["loss"]


def contest(*, claimed: bool = True) -> Contest:
    return Contest("mup", "sp-published", "better", "H4", CLAIM, claimed)


class TestLoss:
    def row(self, ours: dict[int, float | None], theirs: dict[int, float | None], *, claimed: bool = True) -> Row:
        return loss_row(contest(claimed=claimed), ours, theirs, 0.95, ())

    @pytest.mark.parametrize(
        ("ours", "expected"),
        [((0.10, 0.11, 0.12), "reproduced"), ((0.30, 0.31, 0.32), "contradicted"), ((0.10, 0.20, 0.32), "undecided")],
    )
    def test_is_judged_by_the_spread_of_paired_seeds(self, ours: tuple[float, ...], expected: str) -> None:
        row = self.row(dict(enumerate(ours)), {0: 0.2, 1: 0.21, 2: 0.22})
        assert (row.verdict, row.hypothesis) == (expected, "H4")

    def test_the_gain_is_relative_to_the_baseline(self) -> None:
        row = self.row({0: 0.15, 1: 0.30}, {0: 0.20, 1: 0.40})
        assert row.value == pytest.approx(0.25)
        assert row.ours == "0.2250 against 0.3000: gain +25.00 % [+25.00, +25.00]"

    def test_one_seed_decides_nothing(self) -> None:
        row = self.row({0: 0.1}, {0: 0.2})
        assert (row.verdict, row.interval) == ("undecided", None)
        assert "single seed" in row.finding

    def test_a_diverged_subject_contradicts(self) -> None:
        row = self.row({0: None, 1: 0.1}, {0: 0.2, 1: 0.2})
        assert (row.verdict, row.value) == ("contradicted", None)
        assert "mup diverged in 1 of 2 seeds" in row.finding

    def test_a_diverged_baseline_decides_nothing(self) -> None:
        row = self.row({0: 0.1, 1: 0.1}, {0: None, 1: None})
        assert row.verdict == "undecided"
        assert "sp-published diverged in 2 of 2 seeds" in row.finding

    def test_no_common_seed_decides_nothing(self) -> None:
        assert self.row({0: 0.1}, {1: 0.1}).verdict == "undecided"

    def test_how_the_papers_contest_differs_stands_beside_the_verdict(self) -> None:
        noted = replace(contest(), note=paper.BASELINE["mmdit"])
        row = loss_row(noted, {0: 0.1, 1: 0.1}, {0: 0.2, 1: 0.2}, 0.95, ())
        assert row.finding == "better; 2 training seeds; the paper's baseline was tuned by hand; ours is the default setting"

    @pytest.mark.parametrize("ours", [0.1, 0.3, None])
    def test_without_a_claim_it_is_measured(self, ours: float | None) -> None:
        assert self.row({0: ours, 1: ours}, {0: 0.2, 1: 0.2}, claimed=False).verdict == "measured"


class TestMetric:
    def row(self, ours: dict[int, Any], theirs: dict[int, Any], metric: str = "frechet_distance", *, claimed: bool = True) -> Row:
        return metric_row(contest(claimed=claimed), metric, ours, theirs)

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

    @pytest.mark.parametrize(
        ("ours", "expected"), [((0.5, 0.6, 0.5), "reproduced"), ((0.1, 0.1, 0.2), "contradicted"), ((0.1, 0.6, 0.4), "undecided")]
    )
    def test_of_a_score_more_is_better(self, ours: tuple[float, ...], expected: str) -> None:
        records = {seed: score("composition_accuracy", value) for seed, value in enumerate(ours)}
        theirs = {seed: score("composition_accuracy", 0.3) for seed in range(3)}
        row = self.row(records, theirs, "composition_accuracy")
        assert row.verdict == expected
        assert row.value == pytest.approx(sum(ours) / 3 - 0.3)

    def test_floor_and_ceiling_stand_beside_the_score(self) -> None:
        row = self.row({0: score("clip_like_score", 20)}, {0: score("clip_like_score", 10)}, "clip_like_score")
        assert row.ours.endswith("; floor 0.0100; ceiling 21.0")

    def test_a_metric_without_an_interval_of_one_seed_decides_nothing(self) -> None:
        record = {name: value for name, value in distance("kernel_distance", 3.0).items() if name != "interval"}
        row = self.row({0: record}, {0: record | {"value": 9.0}}, "kernel_distance")
        assert (row.verdict, row.interval) == ("undecided", None)

    def test_no_value_gives_the_reason(self) -> None:
        row = self.row({0: distance("frechet_distance", None)}, {0: distance("frechet_distance", 9.0)})
        assert row.verdict == "undecided"
        assert "not finite" in row.finding

    def test_a_caution_of_the_records_is_passed_on(self) -> None:
        record = score("clip_like_score", 20) | {"caution": "trained on what judges it"}
        row = self.row({0: record}, {0: score("clip_like_score", 10)}, "clip_like_score")
        assert row.finding.endswith("; trained on what judges it (mup_s0)")

    def test_without_a_claim_it_is_measured(self) -> None:
        row = self.row(
            {0: distance("kernel_distance", 1.0)}, {0: distance("kernel_distance", 9.0)}, "kernel_distance", claimed=False
        )
        assert row.verdict == "measured"


def test_limits_are_found_wherever_a_record_keeps_them() -> None:
    assert limit(distance("kernel_distance", 3.0), "floor") == 0.2
    assert limit(score("clip_like_score", 3.0), "floor") == 0.01
    assert limit(score("style_accuracy", 0.5, "chance"), "chance") == 0.1
    assert limit(distance("kernel_distance", 3.0), "ceiling") is None
