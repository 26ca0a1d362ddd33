"""The stage `coordcheck`: the gate. muP must be flat, and SP must not be: a check that cannot fail proves nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.errors import GateError
from mudit.logs import progress
from mudit.models.flops import train_flops
from mudit.models.registry import build
from mudit.parametrization.coordcheck import Measurement, Slope, Subject, fit_slopes, measure
from mudit.parametrization.table import table_for

if TYPE_CHECKING:
    from mudit.stages import Job

log = logging.getLogger(__name__)

SCHEMES = ("mup", "sp")  # the parametrization under test, and the negative control


def run(job: Job) -> dict[str, object]:
    """Write `coordcheck.json` (slopes, measurements, verdict) and `coordcheck.png`. Raises GateError if the gate fails."""
    from mudit.report.coordcheck_figure import draw

    config, check = job.config, job.config.coordcheck
    store = LatentStore.open(job.inputs["data"])
    store.check_fits(config.model)
    results: dict[str, dict[str, Any]] = {}
    with progress(len(SCHEMES) * len(check.widths) * len(check.seeds), "coordinate check", unit="model") as bar:
        for scheme in SCHEMES:
            measurements = []
            for width in check.widths:
                for seed in check.seeds:
                    measurements += measure(config, store, subject(config, scheme), width, seed)
                    bar.advance()
            slopes = fit_slopes(measurements, check.tolerance, check.confidence)
            results[scheme] = _result(slopes, measurements)
    report = {"tolerance": check.tolerance, "confidence": check.confidence, "widths": check.widths, "schemes": results}
    failure = judge(results)
    report["passed"] = failure is None
    text = json.dumps(report, indent=1) + "\n"
    if failure is not None:
        job.state.mkdir(parents=True, exist_ok=True)
        (job.state / "coordcheck.json").write_text(text)
        draw(report, job.state / "coordcheck.png")
        raise GateError(f"coordinate check of {job.experiment}: {failure}; see {job.state / 'coordcheck.png'}")
    (job.out / "coordcheck.json").write_text(text)
    draw(report, job.out / "coordcheck.png")
    images = 3 * len(check.seeds) * (check.steps + 1) * check.batch_size
    return {
        "passed": True,
        "worst": {scheme: result["worst"] for scheme, result in results.items()},
        "flops": len(SCHEMES) * sum(train_flops(config.model, width, images // 3) for width in check.widths),
        "device": torch.device("cpu").type,
    }


def subject(config: Experiment, scheme: str) -> Subject:
    """The configured family under a scheme."""
    return Subject(lambda width: build(config.model, width), lambda width: table_for(config.model, width, scheme))


def judge(results: dict[str, dict[str, Any]]) -> str | None:
    """None if the gate passes, else why it does not."""
    if results["mup"]["failed"]:
        worst = results["mup"]["worst"]
        return (
            f"{results['mup']['failed']} of {len(results['mup']['slopes'])} slopes under muP are not flat, worst "
            f"{worst['probe']} of {worst['name']} at step {worst['step']}: {worst['slope']:+.2f} per doubling of width"
        )
    if not results["sp"]["failed"]:
        return "the negative control (SP) passed too, so the check cannot tell right from wrong; raise coordcheck.log2_lr or steps"
    return None


def _result(slopes: list[Slope], measurements: list[Measurement]) -> dict[str, Any]:
    worst = max(slopes, key=lambda slope: abs(slope.slope) if slope.slope == slope.slope else float("inf"))
    return {
        "failed": sum(not slope.flat for slope in slopes),
        "worst": asdict(worst),
        "slopes": [asdict(slope) for slope in slopes],
        "measurements": [asdict(measurement) for measurement in measurements],
    }
