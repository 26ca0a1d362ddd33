"""The paper's tables as a section of the page, ours in the same form beside them.

A cell of the paper's own size holds our number where the experiment has that run, or what running it takes. The same table at this
experiment's size follows, so that the two can be read against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mudit.config.benchmarks import FidClipSection
from mudit.report import published_tables as published
from mudit.report import text
from mudit.report.benchmark_section import benchmark_record
from mudit.report.convergence_tables import checkpoints, convergence, distances_here, losses_here
from mudit.report.evidence import Evidence
from mudit.report.ledger.row import SCHEMES
from mudit.report.measures import MEASURES
from mudit.report.rows import CONVERGENCE_LOSS, has_papers_size, is_papers_proxy, is_papers_target
from mudit.report.style import power
from mudit.report.table_cells import DIVERGED, UNKNOWN, Cell, Table, mean_cell, needs, records_cell, values_of
from mudit.runs import Setting
from mudit.select.certificate import CurvePoint, SettingResult

_AXES = {"width": "width {}", "batch_size": "batch {}", "steps": "{} steps"}
_ARM_METRICS = ("frechet_distance", "kernel_distance", "clip_like_score", "composition_accuracy")


def tables_section(evidence: Evidence) -> list[Table]:
    """Tables for the parts that the paper has and the experiment, too, and for whatever was imported."""
    tables: list[Table] = []
    if evidence.family == "dit" and evidence.certificate is not None:
        tables.append(_figure_3(evidence))
    if evidence.family == "pixart" and evidence.certificate is not None:
        tables.append(_proxy_search(evidence))
    if tables:
        tables.append(_sweeps(evidence))
    contest = bool(evidence.runs) and evidence.subject is not None and evidence.baseline is not None
    if contest and evidence.family == "dit":
        tables += [convergence(evidence), losses_here(evidence)]
    if evidence.runs and (evidence.family == "dit" or any(evidence.snapshots.values())):
        tables += [table for table in [distances_here(evidence)] if table is not None]
    if evidence.family in published.RESULTS and (contest or evidence.imported):
        tables.append(_results(evidence))
    if contest and evidence.family in published.RESULTS:
        tables.append(_arms(evidence))
    if evidence.imported:
        tables.append(checkpoints(evidence))
    return tables


def _figure_3(evidence: Evidence) -> Table:
    """FID of the paper, below it our validation loss where the experiment swept just that setting."""
    ours = _swept(evidence) if is_papers_proxy(evidence) else {}
    rows = []
    for row in published.FIGURE_3:
        found = ours.get((row.width, row.batch_size, row.steps))
        best = min(fid for fid in row.fid if not math.isnan(fid))
        cells = [
            Cell(_fid(fid), "" if found is None else _loss_at(found, log2_lr, evidence.confidence), fid == best)
            for log2_lr, fid in zip(published.LOG2_LRS, row.fid, strict=True)
        ]
        rows.append((row.label, [*cells, Cell("below each" if found else needs(row.hours, "per rate"))]))
    return Table(
        title="Figure 3: the base learning rate of DiT-μP",
        note=f"{published.FIGURE_3_SOURCE}; × diverged. Width 288, batch 256 and 200K steps where nothing else is said. "
        "Ours is the validation loss; hours: the paper's 104 for width 288, scaled by operations.",
        head=["paper", *(power(each) for each in published.LOG2_LRS), "here"],
        rows=rows,
    )


def _proxy_search(evidence: Evidence) -> Table:
    ours = list(_swept(evidence).values()) if is_papers_proxy(evidence) else []
    cells = [
        Cell(
            "best" if log2_lr == published.PROXY_SEARCH_BEST else UNKNOWN,
            _loss_at(ours[0], log2_lr, evidence.confidence) if ours else "",
            log2_lr == published.PROXY_SEARCH_BEST,
        )
        for log2_lr in published.LOG2_LRS
    ]
    return Table(
        title="Table 2: the base learning rate of PixArt-α-μP's proxy",
        note=f"{published.PROXY_SEARCH_SOURCE}. Hours are derived from DiT's throughput.",
        head=["paper", *(power(each) for each in published.LOG2_LRS), "here"],
        rows=[("width 288, 5 epochs", [*cells, Cell("below each" if ours else needs(published.PROXY_SEARCH_HOURS, "per rate"))])],
    )


def _sweeps(evidence: Evidence) -> Table:
    """Every setting along every axis, as the certificate has them."""
    assert evidence.certificate is not None
    found: dict[tuple[str, str], SettingResult] = {}
    for axis in evidence.certificate.axes:
        for setting in axis.settings:
            found[SCHEMES[axis.scheme], _AXES[axis.axis].format(setting.value)] = setting
    rates = sorted({point.log2_lr for setting in found.values() for point in setting.curve})
    rows = []
    for (scheme, label), setting in found.items():
        points = {point.log2_lr: point for point in setting.curve}
        cells = [_point(points.get(rate), rate == setting.best_log2_lr, evidence.confidence) for rate in rates]
        optimum = f"{text.number(setting.optimum)}", text.interval(setting.interval)
        rows.append((f"{scheme}, {label}", [*cells, Cell(*optimum)]))
    return Table(
        title="The same at this experiment's size",
        note=f"Validation mse, mean over seeds {text.listed(evidence.certificate.seeds)} with its interval; lower is better; "
        "× diverged for a seed or more; – not run. The optimum is log₂ of the fitted best rate.",
        head=["here", *(power(rate) for rate in rates), "optimum"],
        rows=rows,
    )


def _results(evidence: Evidence) -> Table:
    """The paper's models, below each the arm in its place where one was trained; then the same benchmarks of what was imported."""
    table = published.RESULTS[evidence.family]
    missing = f"not run: {table.why}" if table.hours is None else f"{needs(table.hours)} ({table.why})"
    rows: list[tuple[str, list[Cell]]] = []
    for arm, (name, values) in ((evidence.baseline, table.baseline), (evidence.subject, table.subject)):
        rows.append((f"{name}, paper", [Cell(UNKNOWN if value is None else f"{value:g}") for value in values]))
        if arm is not None and evidence.runs:
            runs = [run.target.name for run in evidence.of_arm(arm).values()] if is_papers_target(evidence) else []
            rows.append((f"{arm}, here", [_measured(evidence, runs, each) or Cell(missing) for each in table.measured]))
    for name, width in evidence.imported.items():
        found = [_measured(evidence, [name], each) or Cell("–") for each in table.measured]
        of_size = "" if has_papers_size(evidence, width) else f" (width {width:,}: not the paper's size)"
        rows.append((f"{name}, imported{of_size}", found))
    return Table(
        title=f"Results of {table.subject[0]}",
        note=f"{table.source[:1].upper()}{table.source[1:]}.",
        head=["", *table.columns],
        rows=rows,
    )


def _measured(evidence: Evidence, runs: Sequence[str], measured: tuple[str, str] | None) -> Cell | None:
    """Our figure of the paper's benchmark: mean over the runs that were judged as published."""
    if measured is None or not evidence.config.has("benchmarks"):
        return None
    kind, metric = measured
    sections = evidence.config.benchmarks.items()
    names = [name for name, each in sections if kind == (each.prompts.kind if isinstance(each, FidClipSection) else each.kind)]
    records = [
        record
        for name in names
        for run in runs
        if (record := benchmark_record(evidence, run, name, metric)) is not None and record["protocol"] != "any"
    ]
    return records_cell(records, evidence.confidence) if values_of(records) else None


def _arms(evidence: Evidence) -> Table:
    """What the arms reach here, by the judges of this experiment."""
    shown = [metric for metric in _ARM_METRICS if any(metric in records for records in evidence.metrics.values())]
    rows = []
    for arm in evidence.arms:
        finals = [loss for run in evidence.of_arm(arm).values() if (loss := run.final(CONVERGENCE_LOSS)) is not None]
        cells = [mean_cell(finals, evidence.confidence)]
        for metric in shown:
            records = [evidence.metrics.get(run.target.name, {}).get(metric) for run in evidence.of_arm(arm).values()]
            values = [record["value"] for record in records if record is not None and record["value"] is not None]
            cells.append(mean_cell(values, evidence.confidence))
        rows.append((arm, cells))
    return Table(
        title="The same at this experiment's size",
        note="Mean over seeds with its interval. The judges are this experiment's own: no score is comparable with the paper's.",
        head=["here", "validation mse ↓", *(MEASURES[metric].heading for metric in shown)],
        rows=rows,
    )


def _swept(evidence: Evidence) -> dict[tuple[int, int, int], SettingResult]:
    """Width, batch size and steps -> the μP sweep there."""
    assert evidence.certificate is not None
    found = [setting for axis in evidence.certificate.axes if axis.scheme == "mup" for setting in axis.settings]
    named = [(Setting.parse(setting.setting), setting) for setting in found]
    return {(name.width, name.batch_size, setting.steps): setting for name, setting in named}


def _loss_at(setting: SettingResult, log2_lr: float, confidence: float) -> str:
    point = next((point for point in setting.curve if point.log2_lr == log2_lr), None)
    cell = _point(point, False, confidence)
    return f"{cell.value} {cell.beside}".strip()


def _point(point: CurvePoint | None, best: bool, confidence: float) -> Cell:
    if point is None:
        return Cell("–")
    losses = [loss for loss in point.losses.values() if loss is not None]
    if len(losses) < len(point.losses):
        return Cell(DIVERGED, f"{len(point.losses) - len(losses)} of {len(point.losses)}" if losses else "")
    return mean_cell(losses, confidence, best=best)


def _fid(value: float) -> str:
    return DIVERGED if math.isnan(value) else f"{value:.1f}"
