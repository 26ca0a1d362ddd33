"""A plan as a table for people, as plain lines for logs, and as JSON. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from mudit.config.cluster import ClusterSection
from mudit.plan.hardware import PROCESSORS
from mudit.plan.study import StudyPlan, Total

_HEAD = ("experiment", "rule", "jobs", "in slices", "EFLOP", "hours", "at most", "longest h", "results", "state", "files")
# Of one rank: what it computes and exchanges in an optimizer step, and keeps; `in all` has what one block needs as well.
_TARGET_HEAD = ("target run", "width", "parameters", "ranks", "TFLOP a step", "state", "activations", "in all", "exchanged a step")
_NARROWEST = 140  # columns
_UNITS = ((10**15, "PB"), (10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def lines(plan: StudyPlan) -> list[str]:
    """Aligned columns without decoration, and what the numbers stand on."""
    targets = [*_columns([_TARGET_HEAD, *_target_rows(plan)], 1), ""] if plan.targets else []
    return [*_columns([_HEAD, *_rows(plan)], 2), "", *targets, *notes(plan)]


def table(plan: StudyPlan) -> None:
    """The same on a terminal."""
    from rich.console import Console
    from rich.table import Table

    def framed(head: Sequence[str], rows: Sequence[Sequence[str]], words: int, title: str) -> Table:
        shown = Table(title=title, title_justify="left")
        for column, name in enumerate(head):
            shown.add_column(name, justify="left" if column < words else "right", no_wrap=True)
        for row in rows:
            shown.add_row(*row)
        return shown

    *rows, total = _rows(plan)
    costs = framed(_HEAD, rows, 2, f"study {plan.name}")
    costs.add_section()
    costs.add_row(*total, style="bold")
    console = Console()
    console.width = max(console.width, _NARROWEST)
    console.print(costs)
    if plan.targets:
        console.print(framed(_TARGET_HEAD, _target_rows(plan), 1, "on each rank"))
    for note in notes(plan):
        console.print(note, highlight=False)


def notes(plan: StudyPlan) -> list[str]:
    """What the totals mean, and what they stand on."""
    cluster, total = plan.cluster, plan.total
    name = unit(cluster)
    per = {kind: PROCESSORS[cluster.gpu].peak(kind) / 1e12 for kind in ("fp32", "tf32", "bf16")}
    peaks = ", ".join(f"{kind} {peak:g}" for kind, peak in per.items())
    free = ", jobs that use no GPU cost none" if PROCESSORS[cluster.gpu].gpu else ""
    text = [
        f"hours, at most: {name}-hours of all jobs{free}; longest h: hours on the clock of the longest job",
        f"{span(total.hours, name)} expected, {span(total.worst_hours, name)} at most (sweeps whose grids grow to their ends)",
        f"on {cluster.nodes} x {cluster.per_node} {cluster.gpu}: {_wall(plan.wall_hours)} expected, {_wall(plan.worst_wall_hours)} "
        f"at most, if nothing waits in a queue; jobs longer than {cluster.job_hours:g} h run in slices",
        f"disk {size(total.bytes)} at most, {size(total.result_bytes)} of it results; {total.files:,} files",
    ]
    if plan.targets:
        text.append("target runs: operations, bytes that are kept and bytes exchanged are those of one rank in one optimizer step")
    if plan.price is not None:
        text.append(f"price {plan.price:,.0f} at {cluster.price_per_hour:g} per hour")
    text.append(
        f"hours are at {cluster.utilisation[cluster.gpu]:.0%} of the peak ({peaks} TFLOP/s), without starting, queueing, reading, "
        "decoding"
    )
    return text


def as_json(plan: StudyPlan) -> str:
    """Every number, unrounded: hours are processor-hours, bytes bytes."""
    jobs = {
        name: {
            "rule": each.artefact.stage.name,
            "nodes": each.nodes,
            "per_node": each.per_node,
            "processors": each.processors,
            "flops": each.flops,
            "worst_flops": each.worst_flops,
            "wall_hours": each.hours,
            "worst_wall_hours": each.worst_hours,
            "hours": each.cost_hours,
            "slices": each.slices(plan.cluster.job_hours),
            "result_bytes": each.result_bytes,
            "state_bytes": each.state_bytes,
            "files": each.files,
        }
        for name, each in plan.jobs.items()
    }
    value = {
        "study": plan.name,
        "cluster": plan.cluster.model_dump(mode="json"),
        "rules": {name: asdict(total) for name, total in plan.rules.items()},
        "targets": {name: asdict(each) for name, each in plan.targets.items()},
        "total": asdict(plan.total),
        "wall_hours": plan.wall_hours,
        "worst_wall_hours": plan.worst_wall_hours,
        "price": plan.price,
        "jobs": jobs,
    }
    return json.dumps(value, indent=1)


def unit(cluster: ClusterSection) -> str:
    """What `cluster` has the hours of."""
    return "GPU" if PROCESSORS[cluster.gpu].gpu else "core"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for factor, unit in _UNITS:
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 999.5 * factor else f"{count / factor:.0f} {unit}"
    return f"{count:.0f} B"


def tera(count: float) -> str:
    """10^12 of them."""
    return f"{count / 1e12:,.4g}"


def hours(count: float) -> str:
    """Hours with as many digits as they deserve."""
    return f"{count:,.0f}" if count >= 100 else f"{count:.1f}" if count >= 0.1 else "0" if count == 0 else "<0.1"


def span(count: float, of: str = "") -> str:
    """Hours as words, in a unit of which there is at least one: `191 processor-hours`, `2.5 minutes`."""
    unit = next((each for each in ((1, "hours"), (60, "minutes")) if count * each[0] >= 1), (3600, "seconds"))
    value = count * unit[0]
    digits = f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"
    return f"{digits} {of}{'-' * bool(of)}{unit[1]}"


def _rows(plan: StudyPlan) -> list[tuple[str, ...]]:
    rows = [(*name.split(), *_cells(total)) for name, total in plan.rules.items()]
    return [*rows, ("total", "", *_cells(plan.total))]


def _target_rows(plan: StudyPlan) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(each.width),
            f"{each.step.parameters:,}",
            str(each.ranks),
            tera(each.step.flops),
            size(each.step.state),
            size(each.step.kept),
            size(each.memory),
            size(each.step.exchanged),
        )
        for name, each in plan.targets.items()
    ]


def _cells(total: Total) -> Sequence[str]:
    flops = f"{total.flops / 1e18:,.3g}" if total.flops < 1e21 else f"{total.flops / 1e18:,.0f}"
    return (
        str(total.jobs),
        str(total.slices),
        flops,
        hours(total.hours),
        hours(total.worst_hours),
        hours(total.longest),
        size(total.result_bytes),
        size(total.state_bytes),
        f"{total.files:,}",
    )


def _columns(rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """Aligned lines: the first `words` columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ([cell.ljust(width) for cell, width in zip(row[:words], widths, strict=False)] for row in rows)
    numbers = ([cell.rjust(width) for cell, width in zip(row[words:], widths[words:], strict=True)] for row in rows)
    return ["  ".join([*left, *right]).rstrip() for left, right in zip(aligned, numbers, strict=True)]


def _wall(count: float | None) -> str:
    if count is None:
        return "never (a job asks for more processors than there are)"
    return f"{count / 24:,.1f} days" if count >= 48 else span(count)
