"""H3's rows: each way that a comparison of speeds can turn out."""

from __future__ import annotations

from mudit.report.ledger.row import Row
from mudit.report.ledger.speed import speedup_row
from mudit.report.speedup import Speedup

from .made import no_speedup, speedup


class TestSpeedup:
    def row(self, found: Speedup, *, published: bool = True) -> Row:
        return speedup_row("mup", "sp-published", found, published=published, artefacts=())

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
