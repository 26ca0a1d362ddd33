"""The certificate as sections of the page: the transfer plots with their verdicts, the table of optima, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mudit.report import text
from mudit.report.evidence import Evidence
from mudit.report.ledger import AXES, SCHEMES, Row, drift_finding
from mudit.report.rows import axes_together
from mudit.report.transfer_figure import draw_panel, write
from mudit.select.certificate import ALGORITHMS, AxisName, AxisResult, Certificate, SettingResult

FIGURES: dict[AxisName, str] = {
    "width": "transfer-width.svg",
    "batch_size": "transfer-batch-size.svg",
    "steps": "transfer-steps.svg",
}


def write_figures(certificate: Certificate, folder: Path) -> None:
    """The transfer plots as files beside the page."""
    for axis, name in FIGURES.items():
        write(axes_together(certificate, axis), folder / name)


def transfer_sections(evidence: Evidence, panel: Callable[..., str]) -> list[dict[str, Any]]:
    """One per axis: what was held fixed, and a panel per scheme with its verdict."""
    certificate = evidence.certificate
    return [
        {
            "title": f"{ALGORITHMS[axis]}: {AXES[axis]}",
            "fixed": _fixed(evidence, axis),
            "panels": [
                {
                    "svg": panel(
                        f"transfer-{axis}-{result.scheme}",
                        f"Loss against base learning rate by {AXES[axis]}, {SCHEMES[result.scheme]}",
                        partial(draw_panel, axis=result, together=together),
                    ),
                    "scheme": SCHEMES[result.scheme],
                    "verdict": result.verdict,
                    "drift": _drift(result),
                    "finding": drift_finding(result, certificate.tolerance),
                }
                for result in together
            ],
        }
        for axis in FIGURES
        if (together := axes_together(certificate, axis))
    ]


def certificate_section(evidence: Evidence, rows: list[Row]) -> dict[str, Any]:
    """The table of optima and what the certificate covers."""
    certificate, sweep = evidence.certificate, evidence.config.sweep
    proxy = evidence.config.transfer
    on_axes = {(setting.setting, setting.steps) for axis in certificate.axes for setting in axis.settings}
    tuned = [
        {"scheme": SCHEMES[scheme], **_optimum(setting, str(setting.value))}
        for scheme, setting in certificate.tuned.items()
        if (setting.setting, setting.steps) not in on_axes
    ]
    return {
        "axes": [
            {
                "name": f"{SCHEMES[result.scheme]}, {AXES[result.axis]}",
                "verdict": result.verdict,
                "drift": _drift(result),
                "optima": [_optimum(setting, f"{setting.value}") for setting in result.settings],
                "regret": _regret(result),
            }
            for result in certificate.axes
        ],
        "tuned": tuned,
        "regrets": [row for row in rows if row.name.startswith("regret-")],
        "metric": certificate.metric,
        "limits": [
            f"Seeds {text.listed(certificate.seeds)}; intervals at {text.percent(certificate.confidence, 0)}; a drift within "
            f"±{certificate.tolerance:g} in log₂ lr per doubling counts as transfer.",
            f"Measured at {sweep.widths.steps} steps and batch {sweep.widths.batch_size} for widths; the target trains for "
            f"{evidence.config.train.steps} steps. Where the optimum moves with steps, the transferred rate is right for "
            f"{proxy.proxy_steps} steps and only near the best for longer training.",
            f"Holds for this data ({evidence.config.data.source}), this depth ({evidence.config.model.depth}), this optimizer and "
            "a constant learning rate. Depth, data and schedule were not varied.",
        ],
    }


def _fixed(evidence: Evidence, axis: AxisName) -> str:
    sweep = evidence.config.sweep
    if axis == "width":
        return f"batch {sweep.widths.batch_size}, {sweep.widths.steps} steps"
    if axis == "batch_size":
        return f"width {sweep.batch_sizes.width}, {sweep.batch_sizes.steps} steps"
    return f"width {sweep.steps.width}, batch {sweep.steps.batch_size}; one constant-rate run serves all horizons"


def _drift(result: AxisResult) -> str:
    return f"{text.number(result.drift, signed=True)} {text.interval(result.drift_interval, signed=True)}"


def _optimum(setting: SettingResult, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "best": text.number(setting.best_log2_lr, 1).removesuffix(".0"),
        "optimum": text.number(setting.optimum),
        "interval": text.interval(setting.interval),
        "loss": text.significant(setting.best_loss, 4),
        "edge": "the next rate up diverges" if setting.at_stability_edge else "",
    }


def _regret(result: AxisResult) -> str:
    """Of the first setting's best rate at the last setting."""
    regret = result.regret
    if not regret.seeds:
        return "not measured: no run there at that rate"
    if regret.relative is None:
        return f"diverges at {regret.value}"
    bounds = None if regret.interval is None else (100 * regret.interval[0], 100 * regret.interval[1])
    return f"{text.percent(regret.relative, 2)} {text.interval(bounds)}"
