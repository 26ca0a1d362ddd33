"""From curves to a certificate to hyperparameters."""

from __future__ import annotations

import math

import pytest

from mudit.errors import ConfigError, GridEdgeError
from mudit.runs import Setting
from mudit.select.certificate import Certificate, certify
from mudit.select.hyperparameters import Hyperparameters
from mudit.select.transfer_stage import transfer
from mudit.sweep.settings import settings
from support import changed

SEEDS = (0, 1, 2)


def _curves(desk, centre):
    """Parabolas around centre(setting, horizon), with a little seed noise, on a grid that holds them."""
    curves = {}
    for setting, horizons in settings(desk.sweep).items():
        curves[setting] = {}
        for horizon in horizons:
            middle = centre(setting, horizon)
            points = [round(middle) + offset for offset in (-2, -1, 0, 1, 2)]
            curves[setting][horizon] = {
                float(point): {seed: 0.13 + 0.01 * (point - middle - 0.05 * (seed - 1)) ** 2 for seed in SEEDS} for point in points
            }
    return curves


def _ideal(setting: Setting, horizon: int) -> float:
    """muP stays, SP halves its learning rate with each doubling of the width."""
    return -7.1 if setting.scheme == "mup" else -7.1 - math.log2(setting.width / 32)


@pytest.fixture
def certificate(desk) -> Certificate:
    return certify("dit-digits", desk.sweep, desk.select, _curves(desk, _ideal))


def test_drift_and_verdict_follow_the_curves(certificate):
    mup, sp = certificate.axis("width", "mup"), certificate.axis("width", "sp")
    assert mup.drift == pytest.approx(0, abs=1e-6) and mup.verdict == "transfers"
    assert sp.drift == pytest.approx(-1, abs=1e-6) and sp.verdict == "drifts"
    assert [result.value for result in sp.settings] == [16, 32, 64, 128], "the target's own sweep extends the axis"
    assert certificate.axis("steps", "sp").verdict == "transfers"


def test_regret_is_what_the_first_settings_rate_costs_at_the_last(desk):
    def centre(setting, horizon):
        return -7.0 if setting.scheme == "mup" else -7.0 - 0.5 * math.log2(setting.width / 16)

    certificate = certify("dit-digits", desk.sweep, desk.select, _curves(desk, centre))
    assert certificate.axis("width", "mup").regret.relative == pytest.approx(0)
    regret = certificate.axis("width", "sp").regret
    # SP: best -7 at width 16; at 128 the optimum is -8.5, where the nearest grid points cost 0.25 and -7 costs 2.25 (units of 0.01)
    assert regret.log2_lr == -7.0 and regret.relative == pytest.approx(0.01 * (2.25 - 0.25) / 0.1325, rel=0.05)
    assert regret.seeds == 3 and regret.interval is not None


def test_a_transferred_rate_that_diverges_has_no_finite_regret(desk):
    curves = _curves(desk, lambda setting, horizon: -7.0 if setting.scheme == "mup" or setting.width < 128 else -8.0)
    target = curves[Setting("sp", 128, 64)][200]
    target[-7.0] = dict.fromkeys(SEEDS, math.inf)
    regret = certify("dit-digits", desk.sweep, desk.select, curves).axis("width", "sp").regret
    assert regret.relative is None and regret.interval is None


def test_an_optimum_on_the_edge_is_an_error_that_names_the_setting(desk):
    curves = _curves(desk, _ideal)
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


def test_transfer_is_algorithm_4(desk, certificate, tmp_path):
    mup = transfer(desk, certificate, "mup")
    assert (mup.log2_lr, mup.width, mup.certified) == (-7.0, desk.train.width, True)
    assert transfer(desk, certificate, "sp-tuned").log2_lr == -9.0
    assert transfer(desk, certificate, "sp-published").log2_lr == pytest.approx(math.log2(1e-4))
    mup.write(tmp_path)
    assert Hyperparameters.read(tmp_path) == mup


def test_a_transfer_that_is_not_certified_says_so(desk):
    certificate = certify("dit-digits", desk.sweep, desk.select, _curves(desk, lambda s, h: -7.1 - math.log2(s.width / 32)))
    assert transfer(desk, certificate, "mup").certified is False


def test_a_proxy_that_was_not_swept_is_one_clear_line(desk, certificate):
    with pytest.raises(ConfigError, match="no sweep of mup at width 32, batch 64, 999 steps"):
        transfer(changed(desk, transfer__proxy_steps=999), certificate, "mup")
