"""The stage `select`: read every sweep, write the transfer certificate."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from mudit.runs import Setting
from mudit.select.certificate import FILE, Certificate, Curves, certify
from mudit.sweep.records import TrialRecord
from mudit.sweep.settings import settings

if TYPE_CHECKING:
    from mudit.stages import Job

log = logging.getLogger(__name__)


def run(job: Job) -> dict[str, object]:
    """Write `certificate.json`. Raises GridEdgeError if an optimum lies on the edge of its grid."""
    certificate = certify(job.experiment, job.config.sweep, job.config.select, _curves(job))
    (job.out / FILE).write_text(certificate.model_dump_json(indent=1) + "\n")
    for line in describe(certificate):
        log.info("%s", line)
    return {"verdicts": {f"{axis.scheme}/{axis.axis}": axis.verdict for axis in certificate.axes}, "flops": 0, "device": "cpu"}


def describe(certificate: Certificate) -> list[str]:
    """One line per scheme and axis and one for the study of the readout's multiplier, for the log."""
    lines = []
    for axis in certificate.axes:
        optima = ", ".join(f"{result.value}: {result.optimum:.2f}" for result in axis.settings)
        lines.append(
            f"{axis.algorithm} {axis.scheme}: {axis.verdict}; optimum of log2 lr by {axis.axis} {optima}; "
            f"{_drift(axis.drift, axis.drift_interval)}"
        )
    if certificate.output_mult is not None:
        study = certificate.output_mult
        optima = ", ".join(f"{each.width}: {'edge' if each.optimum is None else f'{each.optimum:.2f}'}" for each in study.widths)
        drift = _drift(study.drift, study.drift_interval)
        lines.append(f"readout multiplier: {study.verdict}; optimum of its log2 by width {optima}; {drift}")
    return lines


def _drift(drift: float | None, interval: tuple[float, float] | None) -> str:
    if drift is None:
        return "no drift to measure"
    low, high = interval or (float("-inf"), float("inf"))
    return f"drift {drift:+.2f} [{low:+.2f}, {high:+.2f}] per doubling"


def _curves(job: Job) -> Curves:
    curves: Curves = {}
    for setting, horizons in settings(job.config.sweep).items():
        trials = _trials(job, setting)
        curves[setting] = {
            horizon: {
                log2_lr: {trial.seed: trial.loss(horizon) for trial in trials if trial.log2_lr == log2_lr}
                for log2_lr in sorted({trial.log2_lr for trial in trials})
            }
            for horizon in horizons
        }
    return curves


def _trials(job: Job, setting: Setting) -> list[TrialRecord]:
    content = json.loads((job.inputs[f"sweep/{setting.name}"] / "trials.json").read_text())
    return [TrialRecord.model_validate(record) for record in content["trials"]]
