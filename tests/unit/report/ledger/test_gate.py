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

    def test_a_control_that_passes_decides_nothing(self) -> None:
        assert gate_row(coordcheck(sp_failed=0)).verdict == "undecided"

    def test_a_slope_that_is_no_number_has_no_value(self) -> None:
        report = coordcheck(mup_failed=1)
        report["schemes"]["mup"]["worst"] |= {"slope": float("nan"), "low": float("nan"), "high": float("nan")}
        row = gate_row(report)
        assert (row.value, row.interval) == (None, None)

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
