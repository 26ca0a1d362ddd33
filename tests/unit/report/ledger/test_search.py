"""H5's findings on sensitivity: each way that a random search can turn out."""

from __future__ import annotations

from typing import Any

import pytest

from mudit.config.load import load
from mudit.report.ledger.row import Row
from mudit.report.ledger.search import sensitivity_rows
from mudit.search.records import SearchResult, SearchTrial, Sensitivity
from support import ROOT

from ..synthetic import search, sensitivity

Bounds = tuple[float, float]
CLIPS = (-6.64, -3.3, 0.0, 3.32)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return search(load(ROOT / "config.yaml").experiments["mmdit-emoji"])


def row_of(result: SearchResult, name: str, *changed: Sensitivity) -> Row:
    """The row, with some of the sensitivities replaced."""
    new = {each.name: each for each in changed}
    sensitivities = [new.get(each.name, each) for each in result.sensitivities or ()]
    rows = sensitivity_rows(result.model_copy(update={"sensitivities": sensitivities}))
    return next(row for row in rows if row.name == name)


def lr(interval: Bounds) -> Sensitivity:
    return sensitivity("log2_lr", 0.5, interval, best=-7, best_interval=(-8, -6), values=(-11, -4))


def clip(best_interval: Bounds = (-1.5, 2.0), share: Bounds = (0.1, 0.3), **ranks: float) -> Sensitivity:
    return sensitivity("log2_clip_norm", 0.2, share, best=0.2, best_interval=best_interval, values=CLIPS, **ranks)


def warmup(interval: Bounds) -> Sensitivity:
    return sensitivity("warmup_steps", 0.05, interval, best=30, best_interval=(0, 60), values=(0, 60))


class TestLearningRate:
    @pytest.mark.parametrize(
        ("rate", "other", "expected"),
        [
            ((0.45, 0.7), (0.02, 0.25), "reproduced"),
            ((0.2, 0.7), (0.1, 0.3), "undecided"),
            ((0.0, 0.1), (0.3, 0.5), "contradicted"),
        ],
    )
    def test_matters_most_if_no_interval_overlaps_its_own(
        self, result: SearchResult, rate: Bounds, other: Bounds, expected: str
    ) -> None:
        row = row_of(result, "sensitivity-lr", lr(rate), clip(share=other))
        assert (row.verdict, row.hypothesis, row.interval) == (expected, "H5", rate)
        assert "gradient clip" in row.finding


class TestClip:
    @pytest.mark.parametrize(
        ("interval", "expected"),
        [
            ((-1.5, 2.0), "reproduced"),
            ((-6.0, 2.0), "undecided"),
            ((1.0, 3.0), "contradicted"),
            ((-6.0, -2.0), "contradicted"),
        ],
    )
    def test_is_about_1_if_the_interval_tells_1_from_the_habit(self, result: SearchResult, interval: Bounds, expected: str) -> None:
        assert row_of(result, "clip-best", clip(interval)).verdict == expected

    def test_says_on_which_side_of_1_the_best_lies(self, result: SearchResult) -> None:
        assert "above 1" in row_of(result, "clip-best", clip((1.0, 3.0))).finding
        assert "below 1" in row_of(result, "clip-best", clip((-6.0, -2.0))).finding

    def test_decides_nothing_if_it_is_not_shown_to_matter(self, result: SearchResult) -> None:
        for interval in ((-1.5, 2.0), (-6.0, -2.0)):
            row = row_of(result, "clip-best", clip(interval, share=(0.01, 0.2)))
            assert row.verdict == "undecided" and "matters at all is not shown" in row.finding
        assert "matters at all" not in row_of(result, "clip-best", clip(share=(0.1, 0.2))).finding

    @pytest.mark.parametrize(
        ("low", "high", "expected"), [(0.1, 0.9, "reproduced"), (0.9, 0.1, "contradicted"), (0.45, 0.55, "undecided")]
    )
    def test_tight_clipping_is_judged_by_ranks_at_01_and_1(
        self, result: SearchResult, low: float, high: float, expected: str
    ) -> None:
        row = row_of(result, "clip-tight", clip(low=low, high=high))
        assert row.verdict == expected
        tight, loose = (high * (1 - place) + low * place for place in (1 / 3, 2 / 3))
        assert row.value == pytest.approx(tight - loose) and row.interval == pytest.approx((row.value - 0.12, row.value + 0.12))
        shown = f"mean rank (0 best, 1 worst) {tight:.3f} at 0.1, {loose:.3f} at 1: {tight - loose:+.3f} [".replace("-", "−")
        assert row.ours.startswith(shown)


class TestWarmup:
    @pytest.mark.parametrize(
        ("interval", "expected"), [((-0.03, 0.07), "reproduced"), ((0.02, 0.2), "undecided"), ((0.15, 0.3), "contradicted")]
    )
    def test_is_negligible_below_a_tenth_of_the_variance(self, result: SearchResult, interval: Bounds, expected: str) -> None:
        assert row_of(result, "sensitivity-warmup", warmup(interval)).verdict == expected


def test_the_repa_weight_is_only_measured(result: SearchResult) -> None:
    row = row_of(result, "sensitivity-repa")
    assert (row.verdict, row.published.value) == ("measured", "not known here")


class TestEdge:
    def row(self, result: SearchResult, losses: list[float | None]) -> Row:
        """Trials half a doubling above the best rate with these losses, nulls diverged; none elsewhere."""
        best = result.best
        draw = best.draw.model_copy(update={"log2_lr": best.draw.log2_lr + 0.5})
        above = [
            SearchTrial(number=number, draw=draw, loss=loss, mean=None, runs=[]) for number, loss in enumerate(losses, start=1)
        ]
        changed: dict[str, Any] = {"trials": [best.model_copy(update={"number": 0}), *above], "confirmed": [0]}
        return next(row for row in sensitivity_rows(result.model_copy(update=changed)) if row.name == "lr-not-at-edge")

    @pytest.mark.parametrize(
        ("losses", "expected"),
        [([0.1] * 8, "reproduced"), ([None] * 8, "contradicted"), ([0.1, None] * 4, "undecided"), ([], "undecided")],
    )
    def test_is_judged_by_what_diverges_within_a_doubling(
        self, result: SearchResult, losses: list[float | None], expected: str
    ) -> None:
        assert self.row(result, losses).verdict == expected

    def test_trials_further_up_do_not_count(self, result: SearchResult) -> None:
        row = next(row for row in sensitivity_rows(result) if row.name == "lr-not-at-edge")
        assert result.best.draw.log2_lr + 1 < -5, "the made search diverges above -5"
        assert row.value == 0


def test_too_few_trials_say_nothing(result: SearchResult) -> None:
    rows = {row.name: row for row in sensitivity_rows(result.model_copy(update={"sensitivities": None}))}
    for name in ("sensitivity-lr", "clip-best", "clip-tight", "sensitivity-warmup", "sensitivity-repa"):
        assert (rows[name].verdict, rows[name].value) == ("undecided", None)
        assert "too few" in rows[name].finding
