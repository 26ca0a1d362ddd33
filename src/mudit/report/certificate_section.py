"""The certificate as sections of the page: the transfer plots with their verdicts, the table of optima, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mudit.report import text
from mudit.report.evidence import Evidence
from mudit.report.ledger.row import SCHEMES, Row
from mudit.report.ledger.transfer import AXES, drift_finding
from mudit.report.rows import axes_together
from mudit.report.transfer_figure import draw_panel
from mudit.select.certificate import ALGORITHMS, AxisName, AxisResult, Certificate, SettingResult


def transfer_sections(evidence: Evidence, certificate: Certificate, panel: Callable[..., str]) -> list[dict[str, Any]]:
    """One per axis: what was held fixed, and a panel per scheme with its verdict."""
    return [
        {
            "title": _title(axis, together),
            "is_axis": any(result.drift is not None for result in together),
            "fixed": _fixed(evidence, axis),
            "panels": [
                {
                    "svg": panel(
                        f"transfer-{axis}-{result.scheme}",
                        f"Loss against base learning rate by {AXES[axis]}, {SCHEMES[result.scheme]}",
                        partial(draw_panel, axis=result, together=together),
                    ),
                    "verdict": None if result.drift is None else result.verdict,
                    "drift": _drift(result),
                    "finding": drift_finding(result, certificate.tolerance),
                }
                for result in together
            ],
        }
        for axis in AXES
        if (together := axes_together(certificate, axis))
    ]


def certificate_section(evidence: Evidence, certificate: Certificate, rows: list[Row]) -> dict[str, Any]:
    """The table of optima and what the certificate covers."""
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
                "verdict": None if result.drift is None else result.verdict,
                "drift": _drift(result),
                "optima": [_optimum(setting, f"{setting.value}") for setting in result.settings],
                "regret": _regret(result),
            }
            for result in certificate.axes
        ],
        "tuned": tuned,
        "regrets": [row for row in rows if row.name.startswith("regret-")],
        "metric": certificate.metric,
        "limits": _limits(evidence, certificate),
    }


def _limits(evidence: Evidence, certificate: Certificate) -> list[str]:
    config = evidence.config
    widths, source = config.sweep.widths, config.data.source.kind
    measured = f"Measured at {widths.steps} steps and batch {widths.batch_size} for widths"
    if config.has("train", "transfer"):
        measured += (
            f"; the target trains for {config.train.steps} steps. Where the optimum moves with steps, the transferred rate is "
            f"right for {config.transfer.proxy_steps} steps and only near the best for longer training"
        )
    depth = getattr(config.model, "depth", None)
    held = f"this data ({source}), {'this depth' if depth is None else f'this depth ({depth})'}, this optimizer"
    return [
        f"Seeds {text.listed(certificate.seeds)}; intervals at {text.percent(certificate.confidence, 0)}; a drift within "
        f"±{certificate.tolerance:g} in log₂ lr per doubling counts as transfer.",
        f"{measured}.",
        f"Holds for {held} and a constant learning rate. Depth, data and schedule were not varied.",
    ]


def _title(axis: AxisName, together: list[AxisResult]) -> str:
    """A single value is no axis: the sweep of a proxy, without a check of transfer."""
    if all(result.drift is None for result in together):
        return f"The proxy's sweep, {AXES[axis]} {together[0].settings[0].value}"
    return f"{ALGORITHMS[axis]}: {AXES[axis]}"


def _fixed(evidence: Evidence, axis: AxisName) -> str:
    sweep = evidence.config.sweep
    if axis == "width":
        return f"batch {sweep.widths.batch_size}, {sweep.widths.steps} steps"
    if axis == "batch_size":
        assert sweep.batch_sizes is not None, "the certificate has the axis"
        return f"width {sweep.batch_sizes.width}, {sweep.batch_sizes.steps} steps"
    assert sweep.steps is not None, "the certificate has the axis"
    return f"width {sweep.steps.width}, batch {sweep.steps.batch_size}; one constant-rate run serves all horizons"


def _drift(result: AxisResult) -> str:
    if result.drift is None:
        return "–"
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
    if regret is None:
        return "–"
    if not regret.seeds:
        return "not measured: no run there at that rate"
    if regret.relative is None:
        return f"diverges at {regret.value}"
    bounds = None if regret.interval is None else (100 * regret.interval[0], 100 * regret.interval[1])
    return f"{text.percent(regret.relative, 2)} {text.interval(bounds)}"
