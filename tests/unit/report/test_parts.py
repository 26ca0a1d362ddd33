"""Costs, regret at the target, numbers as words, figures as SVG."""

from __future__ import annotations

import pytest

from mudit.report import text
from mudit.report.costs import Cost, spent
from mudit.report.style import INK, canvas, inline, power
from mudit.select.certificate import CurvePoint, SettingResult, transfer_regret


def target(losses: dict[float, dict[int, float | None]]) -> SettingResult:
    """A setting whose best learning rate is 2^-7."""
    curve = [CurvePoint(log2_lr=log2_lr, mean=None, losses=by_seed) for log2_lr, by_seed in losses.items()]
    return SettingResult(
        value=128,
        setting="mup_w128_b64",
        steps=200,
        curve=curve,
        best_log2_lr=-7,
        best_loss=0.1,
        optimum=-7,
        interval=None,
        vertices={},
        at_stability_edge=False,
    )


def test_costs_count_every_artefact_once() -> None:
    run = {"wall_s": 2.0, "processes": 1, "threads": 3}
    manifests = {name: {"run": {**run, "flops": flops}} for name, flops in (("a", 5), ("b", None))}
    assert spent(manifests, ["a", "b", "a"]) == Cost(5, 12.0)


def test_costs_count_the_threads_of_every_process() -> None:
    run = {"wall_s": 2.0, "processes": 8, "threads": 3, "flops": 5}
    assert spent({"a": {"run": run}}, ["a"]) == Cost(5, 48.0)


def test_regret_is_paired_over_the_seeds_that_measured_both() -> None:
    found = transfer_regret(target({-7: {0: 0.1, 1: 0.1, 2: 0.1}, -6: {0: 0.11, 1: 0.13}}), -6, 0.95)
    assert found.relative == pytest.approx(0.2)
    assert found.seeds == 2
    assert found.interval is not None


def test_regret_of_a_diverged_seed_is_none() -> None:
    found = transfer_regret(target({-7: {0: 0.1, 1: 0.1}, -6: {0: 0.11, 1: None}}), -6, 0.95)
    assert (found.relative, found.interval) == (None, None)


def test_regret_at_the_best_rate_is_zero() -> None:
    found = transfer_regret(target({-7: {0: 0.1, 1: 0.12}}), -7, 0.95)
    assert (found.relative, found.interval) == (0, (0, 0))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.number(-0.001), "0.00"),
        (text.number(-1.5, signed=True), "−1.50"),
        (text.interval(None), "no interval"),
        (text.interval((-0.1, 0.2), signed=True), "[−0.10, +0.20]"),
        (text.percent(0.0546), "5.5 %"),
        (text.significant(0.001234), "0.00123"),
        (text.significant(0.99999), "1.00"),
        (text.flops(2.46e11), "246 GFLOP"),
        (text.flops(0), "0 FLOP"),
        (text.seconds(150), "2.5 min"),
        (text.listed(["a", "b", "c"]), "a, b and c"),
        (text.tight("5.5 % of 3 runs in 20 s [−0.10, +0.20]"), "5.5\u00a0% of 3 runs in 20\u00a0s [−0.10,\u00a0+0.20]"),
        (power(-8), "2⁻⁸"),
    ],
)
def test_numbers_as_words(shown: str, expected: str) -> None:
    assert shown == expected


def figure(name: str) -> str:
    with canvas(3, 2) as (drawn, (ax,)):
        ax.plot([0, 1], [0, 1], "o-", color=INK)
        return inline(drawn, name, 'a "line" & dots')


def test_svg_takes_its_colours_from_the_page_and_keeps_its_ids_to_itself() -> None:
    svg = figure("first")
    assert svg.startswith('<svg viewBox="')
    assert "var(--ink)" in svg
    assert INK not in svg
    assert 'aria-label="a &quot;line&quot; &amp; dots"' in svg
    assert 'id="first-' in svg
    assert 'href="#first-' in svg


def test_svg_is_a_function_of_its_content() -> None:
    assert figure("first") == figure("first")
    assert figure("second").replace("second-", "first-") == figure("first")
