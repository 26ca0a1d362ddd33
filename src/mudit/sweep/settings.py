"""Which settings the sweep runs, and up to which horizons. Imports no torch: the workflow plans with it.

The learning rate is constant after warm-up, so one run of a setting serves every horizon (number of optimizer steps) at which it is
measured: a setting that lies on several axes is trained once, to its longest horizon.
"""

from __future__ import annotations

from collections.abc import Iterator

from mudit.config.search import OutputMultAxis, SweepSection
from mudit.runs import Setting

OUTPUT_MULT_SCHEME = "mup"  # the multiplier is a base hyperparameter of muP's readout; SP has no such notion


def settings(sweep: SweepSection) -> dict[Setting, tuple[int, ...]]:
    """Every setting of the sweep -> its horizons in optimizer steps, ascending. Widest settings first.

    Under each of `sweep.schemes` the axes of Algorithms 1 (widths), 2 (batch sizes) and 3 (steps); under each of
    `sweep.tuned.schemes` the setting at the target's width; under muP the study of the readout's multiplier.
    """
    horizons: dict[Setting, set[int]] = {}
    for setting, steps in _points(sweep):
        horizons.setdefault(setting, set()).add(steps)
    dearest_first = sorted(horizons, key=lambda setting: (-setting.width, -setting.batch_size, setting.name))
    return {setting: tuple(sorted(horizons[setting])) for setting in dearest_first}


def output_mult_settings(study: OutputMultAxis) -> dict[int, dict[int, Setting]]:
    """Width -> log2 of the readout's multiplier -> setting, both ascending."""
    return {
        width: {
            multiplier: Setting(OUTPUT_MULT_SCHEME, width, study.batch_size, multiplier)
            for multiplier in sorted(set(study.log2_output_mult))
        }
        for width in sorted(set(study.width))
    }


def _points(sweep: SweepSection) -> Iterator[tuple[Setting, int]]:
    """Setting and horizon, with repeats."""
    widths, batch_sizes, steps = sweep.widths, sweep.batch_sizes, sweep.steps
    for scheme in sweep.schemes:
        for width in widths.width:
            yield Setting(scheme, width, widths.batch_size), widths.steps
        if batch_sizes is not None:
            for batch_size in batch_sizes.batch_size:
                yield Setting(scheme, batch_sizes.width, batch_size), batch_sizes.steps
        if steps is not None:
            for horizon in steps.steps:
                yield Setting(scheme, steps.width, steps.batch_size), horizon
    if sweep.tuned is not None:
        for scheme in sweep.tuned.schemes:
            yield Setting(scheme, sweep.tuned.width, sweep.tuned.batch_size), sweep.tuned.steps
    if sweep.output_mults is not None:
        for by_multiplier in output_mult_settings(sweep.output_mults).values():
            for setting in by_multiplier.values():
                yield setting, sweep.output_mults.steps
