"""The paper's totals, reproduced from operations and one utilisation, and docs/plan.md, which prints them."""

from __future__ import annotations

import pytest

from mudit.plan.published import RUNS, common_utilisation, lines
from support import ROOT


def test_each_total_implies_a_plausible_share_of_the_tf32_peak_once_encoding_is_counted():
    assert [round(run.implied, 2) for run in RUNS] == [0.28, 0.20]


def test_one_share_reproduces_both_totals_within_a_fifth():
    share = common_utilisation()
    for run in RUNS:
        assert run.predicted(share) == pytest.approx(run.hours, rel=0.20)
        assert run.predicted(run.implied) == pytest.approx(run.hours)


def test_without_the_autoencoder_the_two_totals_cannot_be_reconciled():
    proxy, target = (run.implied_without_autoencoder for run in RUNS)
    assert target / proxy > 3


def test_cached_latents_save_most_of_the_proxy_and_a_quarter_of_the_target():
    saved = [1 - run.predicted(0.25, cached=True) / run.predicted(0.25) for run in RUNS]
    assert saved[0] > 0.75
    assert 0.2 < saved[1] < 0.35


def test_the_page_about_the_plan_shows_these_lines():
    page = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    assert "\n".join(lines()) in page, "docs/plan.md: replace its block by the output of `mudit plan --published`"
