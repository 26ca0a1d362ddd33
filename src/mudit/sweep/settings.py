"""Which settings the sweep runs, and up to which horizons. Imports no torch: the workflow plans with it.

The learning rate is constant, so one run of a setting serves every horizon (number of optimizer steps) at which it is measured:
a setting that lies on several axes is trained once, to its longest horizon.
"""

from __future__ import annotations

from mudit.config.schema import SweepSection
from mudit.runs import Setting


def settings(sweep: SweepSection) -> dict[Setting, tuple[int, ...]]:
    """Every setting of the sweep -> its horizons in optimizer steps, ascending. Widest settings first.

    Under each of `sweep.schemes` the axes of Algorithms 1 (widths), 2 (batch sizes) and 3 (steps); under each of
    `sweep.tuned.schemes` the setting at the target's width.
    """
    widths, batch_sizes, steps, tuned = sweep.widths, sweep.batch_sizes, sweep.steps, sweep.tuned
    horizons: dict[Setting, set[int]] = {}
    for scheme in sweep.schemes:
        for width in widths.width:
            horizons.setdefault(Setting(scheme, width, widths.batch_size), set()).add(widths.steps)
        for batch_size in batch_sizes.batch_size:
            horizons.setdefault(Setting(scheme, batch_sizes.width, batch_size), set()).add(batch_sizes.steps)
        horizons.setdefault(Setting(scheme, steps.width, steps.batch_size), set()).update(steps.steps)
    for scheme in tuned.schemes:
        horizons.setdefault(Setting(scheme, tuned.width, tuned.batch_size), set()).add(tuned.steps)
    dearest_first = sorted(horizons, key=lambda setting: (-setting.width, -setting.batch_size, setting.scheme))
    return {setting: tuple(sorted(horizons[setting])) for setting in dearest_first}
