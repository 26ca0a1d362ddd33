"""From curves to a certificate."""

from __future__ import annotations

import math

import pytest

from mudit.errors import GridEdgeError
from mudit.runs import Setting
from mudit.select.certificate import Certificate, certify
from mudit.select.stage import describe
from support import changed

from .curves import SEEDS, parabolas


def _ideal(setting: Setting, horizon: int) -> float:
    """muP stays, SP halves its learning rate with each doubling of the width."""
    return -7.1 if setting.scheme == "mup" else -7.1 - math.log2(setting.width / 32)


@pytest.fixture
def certificate(desk) -> Certificate:
    return certify("dit-digits", desk.sweep, desk.select, parabolas(desk.sweep, _ideal))


def test_drift_and_verdict_follow_the_curves(certificate):
    mup, sp = certificate.axis("width", "mup"), certificate.axis("width", "sp")
    assert mup.drift == pytest.approx(0, abs=1e-6) and mup.verdict == "transfers"
    assert sp.drift == pytest.approx(-1, abs=1e-6) and sp.verdict == "drifts"
    assert [result.value for result in sp.settings] == [16, 32, 64, 128], "the target's own sweep extends the axis"
    assert certificate.axis("steps", "sp").verdict == "transfers"


def test_regret_is_what_the_first_settings_rate_costs_at_the_last(desk):
    def centre(setting, horizon):
        return -7.0 if setting.scheme == "mup" else -7.0 - 0.5 * math.log2(setting.width / 16)

    certificate = certify("dit-digits", desk.sweep, desk.select, parabolas(desk.sweep, centre))
    assert certificate.axis("width", "mup").regret.relative == pytest.approx(0)
    regret = certificate.axis("width", "sp").regret
    # SP: best -7 at width 16; at 128 the optimum is -8.5, where the nearest grid points cost 0.25 and -7 costs 2.25 (units of 0.01)
    assert regret.log2_lr == -7.0 and regret.relative == pytest.approx(0.01 * (2.25 - 0.25) / 0.1325, rel=0.05)
    assert regret.seeds == 3 and regret.interval is not None


def test_a_transferred_rate_that_diverges_has_no_finite_regret(desk):
    curves = parabolas(desk.sweep, lambda setting, horizon: -7.0 if setting.scheme == "mup" or setting.width < 128 else -8.0)
    target = curves[Setting("sp", 128, 64)][200]
    target[-7.0] = dict.fromkeys(SEEDS, math.inf)
    regret = certify("dit-digits", desk.sweep, desk.select, curves).axis("width", "sp").regret
    assert regret.relative is None and regret.interval is None


def test_an_optimum_on_the_edge_is_an_error_that_names_the_setting(desk):
    curves = parabolas(desk.sweep, _ideal)
    curve = curves[Setting("mup", 64, 64)][200]
    for point in [point for point in curve if point < -7]:
        del curve[point]
    edge = r"mup_w64_b64, 200 steps: the best log2 lr -7 is the edge of the grid.*sweep.log2_lr_min"
    with pytest.raises(GridEdgeError, match=edge):
        certify("dit-digits", desk.sweep, desk.select, curves)


def test_json_round_trip_without_infinities(desk, certificate, tmp_path):
    (tmp_path / "certificate.json").write_text(certificate.model_dump_json())
    assert Certificate.read(tmp_path) == certificate
    assert "Infinity" not in certificate.model_dump_json() and "NaN" not in certificate.model_dump_json()


def test_axes_that_were_not_run_are_not_there(desk):
    sweep = changed(desk.sweep, batch_sizes=None, steps=None, tuned=None)
    certificate = certify("x", sweep, desk.select, parabolas(sweep, _ideal))
    assert {(axis.axis, axis.scheme) for axis in certificate.axes} == {("width", "mup"), ("width", "sp")}
    assert certificate.tuned == {} and certificate.output_mult is None
    assert [result.value for result in certificate.axis("width", "sp").settings] == [16, 32, 64]


def test_a_bare_proxy_has_an_optimum_and_no_drift(desk, tmp_path):
    sweep = changed(desk.sweep, batch_sizes=None, steps=None, tuned=None, widths__width=[32])
    certificate = certify("x", sweep, desk.select, parabolas(sweep, _ideal))
    axis = certificate.axis("width", "mup")
    assert (axis.drift, axis.drift_interval, axis.regret, axis.verdict) == (None, None, None, "undecided")
    assert axis.settings[0].optimum == pytest.approx(-7.1) and axis.settings[0].best_log2_lr == -7
    assert "undecided" in describe(certificate)[0] and "no drift to measure" in describe(certificate)[0]
    (tmp_path / "certificate.json").write_text(certificate.model_dump_json())
    assert Certificate.read(tmp_path) == certificate


def test_a_bare_proxy_and_the_targets_sweep_make_an_axis(desk):
    sweep = changed(desk.sweep, batch_sizes=None, steps=None, widths__width=[32])
    axis = certify("x", sweep, desk.select, parabolas(sweep, _ideal)).axis("width", "sp")
    assert [result.value for result in axis.settings] == [32, 128]
    assert axis.drift == pytest.approx(-1) and axis.verdict == "drifts"
