"""The study of the readout's multiplier: exact on made curves, honest where there is no answer."""

from __future__ import annotations

import math

import pytest

from mudit.config.search import OutputMultAxis
from mudit.select.certificate import Certificate, certify
from mudit.select.optimum import find_optimum
from mudit.select.stage import describe
from support import changed

from .curves import SEEDS, parabolas

MULTIPLIERS = [-4, -2, 0, 2, 4]


@pytest.fixture
def config(desk):
    study = OutputMultAxis(width=[16, 32, 64], batch_size=64, steps=200, log2_output_mult=MULTIPLIERS)
    return changed(
        desk, sweep__schemes=["mup"], sweep__batch_sizes=None, sweep__steps=None, sweep__tuned=None, sweep__output_mults=study
    )


def _study(config, best, curvature=0.001, edit=lambda curves: None):
    """Loss 0.13 + curvature (o - best(width))^2 at the best rate, which falls by half a doubling per doubling of the multiplier."""
    curves = parabolas(
        config.sweep,
        lambda setting, horizon: -7.1 - 0.5 * (setting.log2_output_mult or 0),
        lambda setting: 0.13 + curvature * ((setting.log2_output_mult or 0) - best(setting.width)) ** 2,
    )
    edit(curves)
    certificate = certify("x", config.sweep, config.select, curves)
    assert certificate.output_mult is not None
    assert Certificate.model_validate_json(certificate.model_dump_json()) == certificate
    return certificate


def test_an_optimum_that_stays(config):
    certificate = _study(config, lambda width: 0.4)
    study = certificate.output_mult
    assert [result.width for result in study.widths] == [16, 32, 64] and study.steps == 200
    for result in study.widths:
        assert result.best == 0 and not result.at_edge
        assert result.optimum == pytest.approx(0.4, abs=0.05), "the grid of learning rates blurs it a little"
        assert set(result.vertices) == set(SEEDS) and result.interval is not None
        assert result.lr_slope == pytest.approx(-0.5) and result.lr_slope_interval[0] <= -0.5 <= result.lr_slope_interval[1]
        assert result.span == pytest.approx(0.001 * (4.4**2 - 0.4**2) / 0.13, rel=0.02)
    assert study.drift == pytest.approx(0, abs=1e-9) and study.verdict == "transfers"
    assert "readout multiplier: transfers" in describe(certificate)[-1]


def test_an_optimum_that_moves(config):
    study = _study(config, lambda width: math.log2(width / 32)).output_mult
    assert [result.best for result in study.widths] == [pytest.approx(each, abs=1) for each in (-1, 0, 1)]
    assert study.drift == pytest.approx(1, abs=0.1) and study.verdict == "drifts"


def test_an_optimum_beyond_the_range_is_not_known(config):
    study = _study(config, lambda width: 9 if width == 64 else 0).output_mult
    last = study.widths[-1]
    assert last.best == 4 and last.at_edge and last.optimum is None and last.interval is None and last.vertices == {}
    assert study.drift is None and study.verdict == "undecided"
    assert study.reason == "the best multiplier is not inside the range studied at width 64"


def test_one_width_has_an_optimum_and_no_drift(config):
    config = changed(config, sweep__output_mults__width=[32])
    study = _study(config, lambda width: 0).output_mult
    assert study.widths[0].optimum == pytest.approx(0, abs=0.05)
    assert study.drift is None and study.reason == "one width: nothing to compare"


def test_a_multiplier_that_diverges_everywhere_is_the_end_of_the_valley(config):
    def edit(curves):
        for setting, by_horizon in curves.items():
            if setting.log2_output_mult == 4:
                for curve in by_horizon.values():
                    for point in curve:
                        curve[point] = dict.fromkeys(SEEDS, math.inf)

    study = _study(config, lambda width: 2, edit=edit).output_mult
    result = study.widths[0]
    assert result.multipliers[-1].loss is None and result.multipliers[-1].losses == dict.fromkeys(SEEDS)
    assert result.best == 2 and not result.at_edge
    assert result.optimum == 1.0, "a diverged neighbour is the limit of a loss that grows without end"
    assert result.span is not None


def test_rates_at_the_edge_of_their_grid_say_nothing_about_how_the_rate_moves(config):
    def edit(curves):
        for setting, by_horizon in curves.items():
            if setting.log2_output_mult == 4:
                for curve in by_horizon.values():
                    for point in sorted(curve)[2:]:
                        del curve[point]

    result = _study(config, lambda width: 0, edit=edit).output_mult.widths[0]
    assert result.multipliers[-1].lr_at_edge and result.multipliers[-1].optimum_log2_lr is None
    assert result.lr_slope == pytest.approx(-0.5)


def test_uneven_steps_have_an_exact_vertex():
    curve = {point: {0: 0.1 + (point - 0.7) ** 2} for point in (-4.0, 0.0, 1.0, 5.0)}
    assert find_optimum(curve, (0,)).vertices[0] == pytest.approx(0.7)
    curve = {point: {0: 0.1 + (point - 1.4) ** 2} for point in (-4.0, 0.0, 1.0, 5.0)}
    assert find_optimum(curve, (0,)).vertices[0] == pytest.approx(1.4)
