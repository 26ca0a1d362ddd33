"""The paper's tables as a section of the page, ours in the same form beside them.

A cell of the paper's own size holds our number where the experiment has that run, or what running it takes. The same table at this
experiment's size follows, so that the two can be read against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mudit.config.benchmarks import FidClipSection
from mudit.report import published_tables as published
from mudit.report import text
from mudit.report.benchmark_section import benchmark_record
from mudit.report.evidence import Evidence
from mudit.report.images_section import METRICS
from mudit.report.ledger.row import SCHEMES, student
from mudit.report.rows import CONVERGENCE_LOSS, is_papers_proxy, is_papers_target
from mudit.report.style import power
from mudit.runs import Setting
from mudit.select.certificate import CurvePoint, SettingResult

_UNKNOWN, _DIVERGED = "not known", "×"
_PARTS = 6  # of a target run, as the published figure has it
_AXES = {"width": "width {}", "batch_size": "batch {}", "steps": "{} steps"}
_ARM_METRICS = ("frechet_distance", "kernel_distance", "clip_like_score", "composition_accuracy")


@dataclass(frozen=True)
class Cell:
    """A figure, what stands below it in small type, and whether it is the best of its row."""

    value: str
    beside: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """`head` has the first column's title, too. `rows`: label and the other cells."""

    title: str
    note: str
    head: list[str]
    rows: list[tuple[str, list[Cell]]]


def tables_section(evidence: Evidence) -> list[Table]:
    """Tables for the parts that the paper has and the experiment, too; none for a family without results in the paper."""
    tables: list[Table] = []
    if evidence.family == "dit" and evidence.certificate is not None:
        tables.append(_figure_3(evidence))
    if evidence.family == "pixart" and evidence.certificate is not None:
        tables.append(_proxy_search(evidence))
    if tables:
        tables.append(_sweeps(evidence))
    if evidence.runs and evidence.subject is not None and evidence.baseline is not None:
        if evidence.family == "dit":
            tables += [_convergence(evidence, evidence.subject, evidence.baseline), _convergence_here(evidence)]
        if evidence.family in published.RESULTS:
            tables += [_results(evidence, evidence.subject, evidence.baseline), _arms(evidence)]
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
        rows.append((row.label, [*cells, Cell("below each" if found else _needs(row.hours, "per rate"))]))
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
            "best" if log2_lr == published.PROXY_SEARCH_BEST else _UNKNOWN,
            _loss_at(ours[0], log2_lr, evidence.confidence) if ours else "",
            log2_lr == published.PROXY_SEARCH_BEST,
        )
        for log2_lr in published.LOG2_LRS
    ]
    return Table(
        title="Table 2: the base learning rate of PixArt-α-μP's proxy",
        note=f"{published.PROXY_SEARCH_SOURCE}. Hours are derived from DiT's throughput.",
        head=["paper", *(power(each) for each in published.LOG2_LRS), "here"],
        rows=[("width 288, 5 epochs", [*cells, Cell("below each" if ours else _needs(published.PROXY_SEARCH_HOURS, "per rate"))])],
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


def _convergence(evidence: Evidence, subject: str, baseline: str) -> Table:
    """FID at the steps of the paper's figure, below it ours where the experiment is of that size."""
    comparable = is_papers_target(evidence)
    rows = []
    for step, (theirs, ours) in published.CONVERGENCE.items():
        cells = []
        for arm, fid in ((baseline, theirs), (subject, ours)):
            cells += [Cell("–" if fid is None else f"{fid:.2f}"), _fid_here(evidence, arm, step, comparable, fid)]
        rows.append((f"{step / 1e6:g}M", cells))
    return Table(
        title="Pre-training of DiT-XL-2",
        note=f"{published.CONVERGENCE_SOURCE}. Hours: the paper's 5,376 for 2.4M steps, in proportion.",
        head=["steps", "DiT-XL-2", f"{baseline} here", "DiT-XL-2-μP", f"{subject} here"],
        rows=rows,
    )


def _fid_here(evidence: Evidence, arm: str, step: int, comparable: bool, fid: float | None) -> Cell:
    records = [
        record
        for run in evidence.of_arm(arm).values()
        if comparable and (record := evidence.at_step(run.target, step).get("frechet_distance")) is not None
    ]
    values = [record["value"] for record in records if record["value"] is not None]
    if values:
        bounds = records[0].get("interval") if len(values) == 1 else student(values, evidence.confidence)
        return Cell(text.significant(sum(values) / len(values), 4), _bounds(bounds))
    return Cell("–" if fid is None else _needs(step * published.HOURS_PER_STEP))


def _convergence_here(evidence: Evidence) -> Table:
    """Loss of the averaged weights after each sixth of the target run."""
    steps = [round(evidence.config.train.steps * part / _PARTS) for part in range(1, _PARTS + 1)]
    rows = []
    for step in steps:
        values = {arm: _losses_at(evidence, arm, step) for arm in evidence.arms}
        means = {arm: sum(losses) / len(losses) for arm, losses in values.items() if losses}
        best = min(means.values(), default=None)
        cells = [_mean(values[arm], evidence.confidence, best=arm in means and means[arm] == best) for arm in evidence.arms]
        rows.append((f"{step:,}", cells))
    return Table(
        title="The same at this experiment's size",
        note="Validation mse of the EMA weights at the last validation up to that step, mean over the seeds that did not diverge, "
        "with its interval; lower is better.",
        head=["steps", *evidence.arms],
        rows=rows,
    )


def _losses_at(evidence: Evidence, arm: str, step: int) -> list[float]:
    losses = []
    for run in evidence.of_arm(arm).values():
        seen = [record[CONVERGENCE_LOSS] for record in run.history if record["step"] <= step]
        if seen and run.diverged_at is None:
            losses.append(seen[-1])
    return losses


def _results(evidence: Evidence, subject: str, baseline: str) -> Table:
    table = published.RESULTS[evidence.family]
    rows: list[tuple[str, list[Cell]]] = []
    for arm, (name, values) in ((baseline, table.baseline), (subject, table.subject)):
        rows.append((f"{name}, paper", [Cell(_UNKNOWN if value is None else f"{value:g}") for value in values]))
        missing = f"not run: {table.why}" if table.hours is None else f"{_needs(table.hours)} ({table.why})"
        cells = [_measured(evidence, arm, measured) for measured in table.measured]
        rows.append((f"{arm}, here", [cell or Cell(missing) for cell in cells]))
    return Table(
        title=f"Results of {table.subject[0]}",
        note=f"{table.source[:1].upper()}{table.source[1:]}.",
        head=["", *table.columns],
        rows=rows,
    )


def _measured(evidence: Evidence, arm: str, measured: tuple[str, str] | None) -> Cell | None:
    """Our figure of the paper's benchmark, if the experiment has its size and was put to it as published; mean over seeds."""
    if measured is None or not is_papers_target(evidence) or not evidence.config.has("benchmarks"):
        return None
    kind, metric = measured
    sections = evidence.config.benchmarks.items()
    names = [name for name, each in sections if kind == (each.prompts.kind if isinstance(each, FidClipSection) else each.kind)]
    records = [
        record
        for name in names
        for run in evidence.of_arm(arm).values()
        if (record := benchmark_record(evidence, run.target.name, name, metric)) is not None and record["protocol"] != "any"
    ]
    values = [record["value"] for record in records if record["value"] is not None]
    if len(values) == 1:
        return Cell(text.significant(values[0], 4), _bounds(records[0].get("interval")))
    return _mean(values, evidence.confidence) if values else None


def _arms(evidence: Evidence) -> Table:
    """What the arms reach here, by the judges of this experiment."""
    shown = [metric for metric in _ARM_METRICS if any(metric in records for records in evidence.metrics.values())]
    rows = []
    for arm in evidence.arms:
        finals = [loss for run in evidence.of_arm(arm).values() if (loss := run.final(CONVERGENCE_LOSS)) is not None]
        cells = [_mean(finals, evidence.confidence)]
        for metric in shown:
            records = [evidence.metrics.get(run.target.name, {}).get(metric) for run in evidence.of_arm(arm).values()]
            values = [record["value"] for record in records if record is not None and record["value"] is not None]
            cells.append(_mean(values, evidence.confidence))
        rows.append((arm, cells))
    return Table(
        title="The same at this experiment's size",
        note="Mean over seeds with its interval. The judges are this experiment's own: no score is comparable with the paper's.",
        head=["here", "validation mse ↓", *(" ".join(METRICS[metric]) for metric in shown)],
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
        return Cell(_DIVERGED, f"{len(point.losses) - len(losses)} of {len(point.losses)}" if losses else "")
    return _mean(losses, confidence, best=best)


def _mean(values: Sequence[float], confidence: float, *, best: bool = False) -> Cell:
    if not values:
        return Cell("–")
    bounds = student(values, confidence)
    mean = sum(values) / len(values)
    return Cell(text.significant(mean, 4), "one seed" if bounds is None else _bounds(bounds), best)


def _bounds(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"[{text.significant(interval[0], 4)}, {text.significant(interval[1], 4)}]"


def _fid(value: float) -> str:
    return _DIVERGED if math.isnan(value) else f"{value:.1f}"


def _needs(hours: float, unit: str = "") -> str:
    return f"not run: needs {hours:,.0f} A100-hours {unit}".rstrip()
