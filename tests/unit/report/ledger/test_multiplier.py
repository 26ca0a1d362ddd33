"""Rows on the readout's multiplier: an optimum with its interval, one beyond the range, none at all."""

from __future__ import annotations

from typing import Any

import pytest

from mudit.report.ledger.multiplier import multiplier_rows
from mudit.select.output_mult import MultiplierOptimum, MultiplierResult, OutputMultStudy


def width(number: int, **changes: Any) -> MultiplierOptimum:
    multiplier = MultiplierResult(
        log2_output_mult=0,
        setting=f"mup_w{number}_b64_o0",
        best_log2_lr=-7.0,
        lr_at_edge=False,
        optimum_log2_lr=-7.1,
        loss=0.1,
        losses={0: 0.1},
    )
    values: dict[str, Any] = {
        "best": 0,
        "at_edge": False,
        "optimum": 0.4,
        "interval": (0.1, 0.7),
        "vertices": {0: 0.4},
        "span": 0.05,
        "span_interval": (0.04, 0.06),
        "lr_slope": -0.5,
        "lr_slope_interval": (-0.6, -0.4),
    }
    return MultiplierOptimum(width=number, multipliers=[multiplier], **{**values, **changes})


def study(*widths: MultiplierOptimum, drift: float | None = 0.1, verdict: str = "transfers") -> OutputMultStudy:
    bounds = None if drift is None else (drift - 0.1, drift + 0.1)
    facts: dict[str, Any] = {"scheme": "mup", "batch_size": 64, "steps": 200, "reason": "because"}
    return OutputMultStudy(widths=list(widths), drift=drift, drift_interval=bounds, verdict=verdict, **facts)


def test_a_known_optimum_has_its_interval_and_what_it_is_worth() -> None:
    row = multiplier_rows(study(width(16)))[0]
    assert (row.name, row.value, row.interval) == ("output-mult-w16", 0.4, (0.1, 0.7))
    assert row.ours == "log₂ +0.40 [+0.10, +0.70]"
    assert row.finding.startswith("the worst costs 5.0 % [4.0, 6.0] more loss")
    assert "−0.50 [−0.60, −0.40] per doubling of the multiplier" in row.finding
    assert row.artefacts == ("select", "sweep/mup_w16_b64_o0")


def test_an_optimum_beyond_the_range_is_said() -> None:
    row = multiplier_rows(study(width(16, best=4, at_edge=True, optimum=None, interval=None, vertices={})))[0]
    assert (row.value, row.ours) == (None, "beyond the range: the last one, 2⁴, is the best")


def test_divergence_everywhere_is_said() -> None:
    nothing = {"best": None, "optimum": None, "interval": None, "span": None, "span_interval": None, "lr_slope": None}
    row = multiplier_rows(study(width(16, **nothing)))[0]
    assert row.ours == "diverges at every multiplier"
    assert "fewer than two multipliers trained" in row.finding


@pytest.mark.parametrize(("verdict", "word"), [("transfers", "stays"), ("drifts", "moves"), ("undecided", "undecided")])
def test_the_drift_says_what_was_found_and_claims_nothing(verdict: str, word: str) -> None:
    row = multiplier_rows(study(width(16), width(32), verdict=verdict))[-1]
    assert (row.name, row.verdict, row.hypothesis) == ("output-mult-drift", "measured", "")
    assert row.finding == f"{word}: because"


def test_no_drift_is_no_number() -> None:
    row = multiplier_rows(study(width(16), drift=None, verdict="undecided"))[-1]
    assert (row.value, row.interval, row.ours) == (None, None, "no drift")
