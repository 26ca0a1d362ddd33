"""Rows on the cost of tuning, held against the paper's own shares."""

from __future__ import annotations

import pytest

from mudit.report.costs import Search
from mudit.report.ledger.cost import search_row

# PixArt-alpha: 5 trials, 39.25M against 610.9M parameters, 5 of 30 epochs at a quarter of the batch.
PIXART = Search("", "sweep/mup_w288_b1408", 5, 5, 39_250_000, 1408, 39_185, 610_900_000, 5632, 58_777, 0.06)
# MMDiT: 80 trials, 0.18B against 18B, 30K of 200K steps, equal batch.
MMDIT = Search("", "search", 90, 80, 180_000_000, 1, 30_000, 18_000_000_000, 1, 200_000, 0.14)


def test_the_formula_gives_the_papers_share_for_pixart() -> None:
    """5.35 % with exact counts (5.5 % in the paper)."""
    assert PIXART.share == pytest.approx(0.0535, abs=2e-4)
    row = search_row(PIXART, "pixart", of_paper=True)
    assert (row.verdict, row.hypothesis, row.published.value) == ("measured", "H4", "5.5 %")
    assert row.ours == "5.4 % of one target run"


def test_confirming_seeds_are_counted_and_shown_beside_what_the_paper_counts() -> None:
    row = search_row(MMDIT, "mmdit", of_paper=True)
    assert MMDIT.share_of_points == pytest.approx(0.12)
    assert row.value == pytest.approx(0.135)
    assert row.ours == (
        "13.5 % of one target run; 12.0 % counting one seed, as the paper does; "
        "2.4 % of the 5 runs that tuning by hand took in the paper"
    )
    assert (row.name, row.hypothesis) == ("search-search", "H5")
    assert "14.0 % in model FLOPs" in row.finding
    assert row.finding.endswith("exact arithmetic, no interval")


def test_only_the_transferred_search_is_held_against_the_paper() -> None:
    row = search_row(PIXART, "pixart", of_paper=False)
    assert (row.hypothesis, row.published.value) == ("", "not given")


def test_dits_share_is_derived_and_no_headline_claim() -> None:
    row = search_row(PIXART, "dit", of_paper=True)
    assert (row.hypothesis, row.published.value) == ("", "2.6 %")
