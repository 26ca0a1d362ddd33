"""H2's rows and their controls: each way that a certificate can turn out, and what other families claim."""

from __future__ import annotations

from typing import Any

import pytest

from mudit.report.ledger.transfer import base_lr_row, drift_row, regret_row
from mudit.select.certificate import Regret

from .made import axis, regret, setting


class TestDrift:
    @pytest.mark.parametrize(
        ("found", "expected"), [("transfers", "reproduced"), ("drifts", "contradicted"), ("undecided", "undecided")]
    )
    def test_mup_is_claimed_to_stay(self, found: Any, expected: str) -> None:
        assert drift_row(axis(found), 0.25, "dit").verdict == expected

    @pytest.mark.parametrize(
        ("found", "expected"), [("transfers", "contradicted"), ("drifts", "reproduced"), ("undecided", "undecided")]
    )
    def test_sp_is_expected_to_move_with_width(self, found: Any, expected: str) -> None:
        assert drift_row(axis(found, scheme="sp"), 0.25, "dit").verdict == expected

    def test_nothing_is_claimed_of_sp_along_other_axes(self) -> None:
        assert drift_row(axis("drifts", scheme="sp", name="steps"), 0.25, "dit").verdict == "measured"

    def test_a_contradiction_says_direction_and_factor(self) -> None:
        finding = drift_row(axis("drifts"), 0.25, "dit").finding
        assert "falls by a factor of 1.23" in finding
        assert "0.10, would still pass" in finding

    def test_a_missing_interval_is_said(self) -> None:
        row = drift_row(axis("undecided", interval=None), 0.25, "dit")
        assert "no interval" in row.ours
        assert "single seed" in row.finding

    @pytest.mark.parametrize(
        ("found", "expected"), [("transfers", "reproduced"), ("drifts", "contradicted"), ("undecided", "undecided")]
    )
    def test_of_uvit_the_theorem_is_tested(self, found: Any, expected: str) -> None:
        row = drift_row(axis(found), 0.25, "uvit")
        assert (row.verdict, row.hypothesis) == (expected, "H1")
        assert "theory only" in row.published.value

    @pytest.mark.parametrize(
        ("found", "expected"), [("transfers", "contradicted"), ("drifts", "reproduced"), ("undecided", "undecided")]
    )
    def test_sp_is_the_control_of_uvit_too(self, found: Any, expected: str) -> None:
        assert drift_row(axis(found, scheme="sp"), 0.25, "uvit").verdict == expected

    def test_beyond_width_only_dit_has_a_claim(self) -> None:
        row = drift_row(axis("transfers", name="steps"), 0.25, "uvit")
        assert (row.verdict, row.hypothesis) == ("measured", "")

    def test_your_own_model_is_measured(self) -> None:
        assert drift_row(axis("drifts"), 0.25, "external").verdict == "measured"


class TestBaseRate:
    def test_other_data_is_measured_beside_the_paper(self) -> None:
        row = base_lr_row(setting(), [setting()], 32, "dit", comparable=False)
        assert row.verdict == "measured"
        assert row.finding.startswith("8 times")
        assert row.finding.endswith("the next rate up diverges (paper: in 3 of 7)")

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
        assert base_lr_row(setting(288, best, interval), [], 288, "dit", comparable=True).verdict == expected

    def test_of_a_family_without_a_published_rate_nothing_is_compared(self) -> None:
        row = base_lr_row(setting(), [setting()], 32, "uvit", comparable=False)
        assert (row.verdict, row.hypothesis, row.published.value) == ("measured", "", "not given")
        assert "the paper's" not in row.finding


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
        assert regret_row("mup", found, setting(), setting(128), gain, "dit").verdict == expected

    def test_of_the_control_is_only_measured(self) -> None:
        row = regret_row("sp", regret(None, None), setting(), setting(128), 0.03, "dit")
        assert (row.verdict, row.ours) == ("measured", "diverges")

    def test_of_pixart_belongs_to_its_claim(self) -> None:
        row = regret_row("mup", regret(0.0), setting(), setting(128), None, "pixart")
        assert (row.verdict, row.hypothesis) == ("reproduced", "H4")
