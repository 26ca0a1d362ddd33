"""Which settings a sweep runs."""

from __future__ import annotations

from pathlib import Path

from mudit.config.load import load
from mudit.runs import Setting
from mudit.sweep.settings import settings

REPOSITORY = Path(__file__).parents[3]


def test_axes_share_settings_and_take_the_union_of_their_horizons() -> None:
    sweep = load(REPOSITORY / "tests/smoke/config.yaml").experiments["smoke"].sweep
    found = settings(sweep)
    assert found[Setting("mup", 16, 16)] == (10, 20)  # on all three axes
    assert found[Setting("sp", 32, 16)] == (20,)  # on the width axis and at the target's width
    assert set(found) == {
        *(Setting(scheme, width, batch) for scheme in ("mup", "sp") for width, batch in ((16, 16), (16, 32), (32, 16))),
        Setting("sp-same-init", 32, 16),
    }


def test_widest_settings_come_first() -> None:
    sweep = load(REPOSITORY / "config.yaml").experiments["dit-digits"].sweep
    widths = [setting.width for setting in settings(sweep)]
    assert widths == sorted(widths, reverse=True)
