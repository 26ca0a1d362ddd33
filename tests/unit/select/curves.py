"""Learning-rate curves with a known answer."""

from __future__ import annotations

from collections.abc import Callable

from mudit.config.search import SweepSection
from mudit.runs import Setting
from mudit.select.certificate import Curves
from mudit.sweep.settings import settings

SEEDS = (0, 1, 2)


def parabolas(
    sweep: SweepSection, centre: Callable[[Setting, int], float], floor: Callable[[Setting], float] = lambda setting: 0.13
) -> Curves:
    """Parabolas around centre(setting, horizon) above floor(setting), with a little seed noise, on a grid that holds them."""
    curves: Curves = {}
    for setting, horizons in settings(sweep).items():
        curves[setting] = {}
        for horizon in horizons:
            middle = centre(setting, horizon)
            points = [round(middle) + offset for offset in (-2, -1, 0, 1, 2)]
            curves[setting][horizon] = {
                float(point): {seed: floor(setting) + 0.01 * (point - middle - 0.05 * (seed - 1)) ** 2 for seed in SEEDS}
                for point in points
            }
    return curves
