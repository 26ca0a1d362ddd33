"""H1's rows: each way that a coordinate check can turn out, family by family."""

from __future__ import annotations

import pytest

from mudit.report import paper
from mudit.report.ledger.gate import gate_row

from ..synthetic import coordcheck


class TestGate:
    def test_flat_under_mup_only_reproduces(self) -> None:
        row = gate_row(coordcheck())
        assert row.verdict == "reproduced"
        assert row.interval == pytest.approx((-0.08, 0.12))

    def test_failing_mup_contradicts(self) -> None:
        assert gate_row(coordcheck(mup_failed=3)).verdict == "contradicted"

    @pytest.mark.parametrize(("slope", "low", "high"), [(-0.24, -0.29, -0.18), (0.11, -0.12, 0.34), (0.3, 0.2, 0.4)])
    def test_an_interval_that_crosses_the_tolerance_decides_nothing(self, slope: float, low: float, high: float) -> None:
        report = coordcheck()
        report["schemes"]["mup"]["slopes"][3] |= {"slope": slope, "low": low, "high": high, "flat": abs(slope) <= 0.25}
        row = gate_row(report)
        assert row.verdict == "undecided"
        assert row.finding.startswith("the intervals of 1 of 12 slopes cross ±0.25, the points of ")
        assert "size of blocks.1.attn.logits at step 2, " in row.finding

    def test_one_slope_that_is_steep_for_certain_contradicts_beside_others_that_are_not(self) -> None:
        report = coordcheck(mup_failed=1)
        report["schemes"]["mup"]["slopes"][3] |= {"slope": 0.2, "low": 0.1, "high": 0.3}
        assert gate_row(report).verdict == "contradicted"

    def test_a_control_that_passes_decides_nothing(self) -> None:
        assert gate_row(coordcheck(sp_failed=0)).verdict == "undecided"

    def test_a_slope_that_is_no_number_has_no_value(self) -> None:
        report = coordcheck(mup_failed=1)
        report["schemes"]["mup"]["worst"] |= {"slope": float("nan"), "low": float("nan"), "high": float("nan")}
        row = gate_row(report)
        assert (row.value, row.interval, row.verdict) == (None, None, "contradicted")

    @pytest.mark.parametrize("family", ["dit", "pixart", "uvit", "mmdit"])
    def test_each_family_has_a_claim_of_its_own(self, family: str) -> None:
        row = gate_row(coordcheck(family))
        assert (row.name, row.hypothesis, row.verdict) == (f"rules-{family}", "H1", "reproduced")
        assert paper.FAMILIES[family] in row.claim
        assert row.artefacts == (f"coordcheck/{family}",)

    def test_of_uvit_the_paper_has_theory_only(self) -> None:
        assert "no experiment" in gate_row(coordcheck("uvit")).published.value

    def test_the_paper_says_nothing_of_your_own_model(self) -> None:
        row = gate_row(coordcheck("external", mup_failed=2))
        assert (row.verdict, row.hypothesis) == ("measured", "")
        assert "2 of 12 slopes are not flat" in row.finding
