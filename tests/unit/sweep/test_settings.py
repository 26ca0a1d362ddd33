"""Which settings a sweep runs."""

from __future__ import annotations

from mudit.config.load import load
from mudit.config.search import OutputMultAxis
from mudit.runs import Setting
from mudit.sweep.settings import output_mult_settings, settings
from support import ROOT, changed


def test_axes_share_settings_and_take_the_union_of_their_horizons() -> None:
    sweep = load(ROOT / "tests/smoke/config.yaml").experiments["smoke"].sweep
    found = settings(changed(sweep, output_mults=None))
    assert found[Setting("mup", 16, 16)] == (10, 20)  # on all three axes
    assert found[Setting("sp", 32, 16)] == (20,)  # on the width axis and at the target's width
    assert set(found) == {
        *(Setting(scheme, width, batch) for scheme in ("mup", "sp") for width, batch in ((16, 16), (16, 32), (32, 16))),
        Setting("sp-same-init", 32, 16),
    }


def test_widest_settings_come_first(desk) -> None:
    widths = [setting.width for setting in settings(desk.sweep)]
    assert widths == sorted(widths, reverse=True)


def test_an_axis_that_is_left_out_runs_nothing(desk) -> None:
    bare = changed(desk.sweep, schemes=["mup"], batch_sizes=None, steps=None, tuned=None, widths__width=[32])
    assert settings(bare) == {Setting("mup", 32, 64): (200,)}


def test_the_readouts_multiplier_is_studied_under_mup_at_each_width(desk) -> None:
    study = OutputMultAxis(width=[64, 32], batch_size=64, steps=200, log2_output_mult=[-2, 0, 2])
    bare = changed(desk.sweep, batch_sizes=None, steps=None, tuned=None, widths__width=[32], output_mults=study)
    found = settings(bare)
    assert set(found) == {
        Setting("mup", 32, 64),
        Setting("sp", 32, 64),
        *(Setting("mup", width, 64, multiplier) for width in (32, 64) for multiplier in (-2, 0, 2)),
    }
    assert set(found.values()) == {(200,)}
    by_width = output_mult_settings(study)
    assert list(by_width) == [32, 64] and list(by_width[32]) == [-2, 0, 2]
    assert by_width[64][-2] == Setting("mup", 64, 64, -2)
