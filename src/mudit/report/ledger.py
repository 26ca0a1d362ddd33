"""The claims ledger: each claim of the paper, what it says, what we measured, and a verdict computed from the data.

Verdicts: `reproduced` and `contradicted` need an interval that decides; `undecided` says why it does not; `measured` is for figures
that the paper makes no claim about; `not run` says what running would take. Rows are pure functions of their evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mudit.report import paper, text
from mudit.report.costs import Search
from mudit.report.paper import NotRun, Published
from mudit.report.speedup import Speedup
from mudit.select.certificate import AxisName, AxisResult, Regret, SettingResult
from mudit.select.optimum import mean_interval

Verdict = Literal["reproduced", "contradicted", "undecided", "measured", "not run"]
Bounds = tuple[float, float]

SCHEMES = {"mup": "μP", "sp": "SP", "sp-same-init": "SP with μP's initialisation"}
AXES: dict[AxisName, str] = {"width": "width", "batch_size": "batch size", "steps": "number of steps"}
_AXIS_CLAIMS: dict[AxisName, Published] = {"width": paper.WIDTH, "batch_size": paper.BATCH_SIZE, "steps": paper.STEPS}
_OF_TRANSFER: dict[str, Verdict] = {"transfers": "reproduced", "drifts": "contradicted", "undecided": "undecided"}
_OF_CONTROL: dict[str, Verdict] = {"transfers": "contradicted", "drifts": "reproduced", "undecided": "undecided"}


@dataclass(frozen=True)
class Row:
    """One line of the ledger. `value` and `interval` are in the unit that `ours` states; `finding` says in words what they mean."""

    name: str
    group: str
    claim: str
    published: Published
    ours: str
    value: float | None
    interval: Bounds | None
    verdict: Verdict
    finding: str
    artefacts: tuple[str, ...]


def gate_row(coordcheck: Mapping[str, Any]) -> Row:
    """H1 from `coordcheck.json`: muP is flat in width, and the same check fails under SP."""
    mup, sp = coordcheck["schemes"]["mup"], coordcheck["schemes"]["sp"]
    worst, control = mup["worst"], sp["worst"]
    if mup["failed"]:
        verdict: Verdict = "contradicted"
        finding = f"{mup['failed']} of {len(mup['slopes'])} slopes are not flat, worst at {worst['name']}, step {worst['step']}"
    elif not sp["failed"]:
        verdict, finding = "undecided", "the negative control, SP, is flat too: this check cannot tell right from wrong"
    else:
        verdict = "reproduced"
        finding = (
            f"all {len(mup['slopes'])} slopes are flat (±{coordcheck['tolerance']:g}); under SP {sp['failed']} of "
            f"{len(sp['slopes'])} are not, the steepest {text.number(control['slope'], signed=True)}"
        )
    bounds = _finite((worst["low"], worst["high"]))
    return Row(
        name="rules",
        group="Parametrization",
        claim="μP of a diffusion transformer follows the rules of a plain Transformer",
        published=paper.RULES,
        ours=f"steepest slope {text.number(worst['slope'], signed=True)} {text.interval(bounds, signed=True)}",
        value=_finite_value(worst["slope"]),
        interval=bounds,
        verdict=verdict,
        finding=finding,
        artefacts=("coordcheck",),
    )


def drift_row(axis: AxisResult, tolerance: float) -> Row:
    """H2 and its control: does the best learning rate stay as the axis grows? The certificate's verdict, read against the claim."""
    scheme, what = SCHEMES[axis.scheme], AXES[axis.axis]
    if axis.scheme == "mup":
        published, verdict = _AXIS_CLAIMS[axis.axis], _OF_TRANSFER[axis.verdict]
        claim = f"Under {scheme} the best base learning rate is the same for every {what}"
    elif axis.axis == "width":
        published, verdict = paper.SP_WIDTH, _OF_CONTROL[axis.verdict]
        claim = f"Control: under {scheme} the best learning rate moves with {what}"
    else:
        published, verdict = paper.NONE, "measured"
        claim = f"Beside it: the best learning rate of {scheme} as {what} grows"
    return Row(
        name=f"drift-{axis.scheme}-{axis.axis}",
        group="Transfer of the learning rate",
        claim=claim,
        published=published,
        ours=f"{text.number(axis.drift, signed=True)} {text.interval(axis.drift_interval, signed=True)} per doubling",
        value=axis.drift,
        interval=axis.drift_interval,
        verdict=verdict,
        finding=drift_finding(axis, tolerance),
        artefacts=("select", *dict.fromkeys(f"sweep/{setting.setting}" for setting in axis.settings)),
    )


def drift_finding(axis: AxisResult, tolerance: float) -> str:
    """The certificate's verdict in words."""
    if axis.verdict == "transfers":
        return f"transfers: the whole interval is within ±{tolerance:g}"
    if axis.drift_interval is None:
        return "undecided: a single seed gives no interval"
    if axis.verdict == "drifts":
        direction = "falls" if axis.drift < 0 else "rises"
        least = min(map(abs, axis.drift_interval))
        known = f"; the interval's smallest drift, {least:.2f}, would still pass ±{tolerance:g}" if least <= tolerance else ""
        factor = f"{2 ** abs(axis.drift):.2f}"
        return f"drifts: the best rate {direction} by a factor of {factor} per doubling of {AXES[axis.axis]}{known}"
    return f"undecided: the interval holds zero, and also drifts beyond ±{tolerance:g}"


def base_lr_row(proxy: SettingResult, settings: list[SettingResult], base_width: int, *, comparable: bool) -> Row:
    """The best base learning rate itself: a number of its model and data, so a claim only for the paper's own (`comparable`)."""
    edge = sum(setting.at_stability_edge for setting in settings)
    ratio = 2 ** (proxy.best_log2_lr - paper.BASE_LR_LOG2)
    return Row(
        name="base-lr",
        group="Transfer of the learning rate",
        claim="The best base learning rate",
        published=paper.BASE_LR,
        ours=f"log₂ {text.number(proxy.optimum)} {text.interval(proxy.interval)}; grid point {text.number(proxy.best_log2_lr, 0)}",
        value=proxy.optimum,
        interval=proxy.interval,
        verdict=_same_rate(proxy) if comparable else "measured",
        finding=f"{ratio:g} times the paper's; it belongs to its data, depth and base width ({base_width}). "
        f"In {edge} of {len(settings)} settings the next rate up diverges (paper: in 5 of 7)",
        artefacts=("select", f"sweep/{proxy.setting}"),
    )


def _same_rate(proxy: SettingResult) -> Verdict:
    if proxy.best_log2_lr == paper.BASE_LR_LOG2:
        return "reproduced"
    known = proxy.interval is not None and not proxy.interval[0] <= paper.BASE_LR_LOG2 <= proxy.interval[1]
    return "contradicted" if known else "undecided"


def regret_row(scheme: str, regret: Regret, proxy: SettingResult, target: SettingResult, doubling_gain: float | None) -> Row:
    """What the transferred learning rate costs at the target's width, against that width's own sweep.

    doubling_gain: relative loss that one doubling of width gains, the yardstick; None if the sweeps do not show it.
    """
    name = SCHEMES[scheme]
    verdict, finding = _judge_regret(regret, doubling_gain)
    relative = regret.relative
    ours = "diverges" if relative is None else f"{text.percent(relative, 2)} {_percent_interval(regret.interval)} more loss"
    controlled = scheme != "mup"
    return Row(
        name=f"regret-{scheme}",
        group="Transfer of the learning rate",
        claim=(
            f"Control: the same transfer under {name}, to width {regret.value}"
            if controlled
            else f"The proxy's best rate is as good as the best of width {regret.value}'s own sweep"
        ),
        published=paper.NONE if controlled else paper.NO_TUNING,
        ours=ours,
        value=relative,
        interval=regret.interval,
        verdict="measured" if controlled else verdict,
        finding=finding,
        artefacts=("select", f"sweep/{proxy.setting}", f"sweep/{target.setting}"),
    )


def _judge_regret(regret: Regret, gain: float | None) -> tuple[Verdict, str]:
    if regret.relative is None:
        return "contradicted", "the transferred rate diverges at the target's width"
    if regret.relative == 0:
        return "reproduced", "the transferred rate is the best of the target's own grid"
    if gain is None or regret.interval is None:
        why = "one seed measured both rates" if regret.interval is None else "no doubling of width to compare with"
        return "undecided", f"the transferred rate is not the best of the target's own grid; {why}"
    yardstick = f"one doubling of width gains {text.percent(gain)}"
    if regret.interval[1] <= gain:
        return "reproduced", f"small: {yardstick}"
    if regret.interval[0] > gain:
        return "contradicted", f"large: {yardstick}"
    return "undecided", f"the interval holds what {yardstick}"


def speedup_row(subject: str, baseline: str, speedup: Speedup, *, published: bool, artefacts: tuple[str, ...]) -> Row:
    """H3 against one arm. Only the arm as published has a claim in the paper; the others say what the claim is made of."""
    verdict, finding = _judge_speedup(subject, baseline, speedup, published)
    bounds = (speedup.interval.low, speedup.interval.high) if speedup.interval else None
    ours = "no factor" if speedup.mean is None else f"{text.number(speedup.mean)}× {text.interval(bounds)}"
    return Row(
        name=f"speedup-{baseline}",
        group="Convergence at the target",
        claim=f"{subject} reaches the loss of {baseline} in fewer steps",
        published=paper.SPEEDUP if published else paper.NONE,
        ours=ours,
        value=speedup.mean,
        interval=bounds,
        verdict=verdict if published else "measured",
        finding=finding,
        artefacts=artefacts,
    )


def _judge_speedup(subject: str, baseline: str, speedup: Speedup, published: bool) -> tuple[Verdict, str]:
    who = set(speedup.diverged.values())
    if who & {"subject", "both"}:
        return "contradicted", f"{subject} diverged in {_seeds(speedup, 'subject', 'both')}"
    if who:
        return "undecided", f"{baseline} diverged in {_seeds(speedup, 'baseline')}: there is no factor"
    if speedup.mean is None:
        return "undecided", "no seed was trained in both arms"
    if speedup.interval is None:
        return "undecided", "a single seed gives no interval"
    if speedup.interval.low > 1:
        beside = f"; the paper's {paper.SPEEDUP_FACTOR:g} is {_where(paper.SPEEDUP_FACTOR, speedup)}" if published else ""
        return "reproduced", f"faster{beside}"
    if speedup.interval.high < 1:
        share = text.percent(speedup.mean, 0)
        return "contradicted", f"slower: {baseline} needs {share} of {subject}'s steps for {subject}'s final loss"
    return "undecided", "the interval holds 1: neither is faster beyond the spread of seeds"


def search_row(search: Search, *, of_paper: bool) -> Row:
    """Tuning cost by the paper's formula."""
    return Row(
        name=f"search-{search.artefact.partition('/')[2]}",
        group="Cost of tuning",
        claim="Tuning on the proxy costs a small share of one target run" if of_paper else f"Beside it: tuning {search.what}",
        published=paper.SEARCH if of_paper else paper.NONE,
        ours=f"{text.percent(search.share, 1 if search.share < 1 else 0)} of one target run",
        value=search.share,
        interval=None,
        verdict="measured",
        finding=(
            f"{search.trials} trials of {search.steps} steps, {search.parameters:,} against {search.target_parameters:,} parameters"
        ),
        artefacts=(search.artefact,),
    )


def distance_row(
    subject: str, baseline: str, metric: str, ours: Mapping[int, Mapping[str, Any]], theirs: Mapping[int, Mapping[str, Any]]
) -> Row:
    """An image metric, lower is better, at equal steps: baseline minus subject, by training seed.

    With one seed the interval is that of the images alone, as if both runs' errors were independent.
    """
    label, published = {
        "frechet_distance": ("Fréchet distance", paper.DISTANCE),
        "kernel_distance": ("kernel distance", paper.NO_KERNEL_DISTANCE),
    }[metric]
    seeds = sorted(ours.keys() & theirs.keys())
    records = [(ours[seed], theirs[seed]) for seed in seeds]
    unusable = next((record for pair in records for record in pair if record["value"] is None), None)
    row: dict[str, Any] = {
        "name": metric.replace("_", "-"),
        "group": "Images",
        "claim": f"At equal steps {subject}'s images are closer to real ones than {baseline}'s ({label})",
        "published": published,
        "artefacts": tuple(
            f"{stage}/{arm}_s{seed}" for stage in ("sample", "evaluate") for seed in seeds for arm in (subject, baseline)
        ),
    }
    if unusable is not None:
        finding = f"{unusable['run']}: {unusable['reason']}"
        return Row(**row, ours="no value", value=None, interval=None, verdict="undecided", finding=finding)
    differences = [baseline_record["value"] - record["value"] for record, baseline_record in records]
    mean = sum(differences) / len(differences)
    bounds = _difference_interval(records, differences)
    floor = sum(record["matched"]["floor"] for record, _ in records) / len(records)
    values = [sum(pair[side]["value"] for pair in records) / len(records) for side in (0, 1)]
    return Row(
        **row,
        ours=f"{text.significant(values[0])} against {text.significant(values[1])}; floor {text.significant(floor)}",
        value=mean,
        interval=bounds,
        verdict="measured" if published is paper.NO_KERNEL_DISTANCE else _sign_verdict(bounds),
        finding=_distance_finding(mean, bounds, len(seeds)),
    )


def not_run_row(claim: NotRun) -> Row:
    """A claim that needs a cluster."""
    return Row(
        name=claim.name,
        group="Not run here",
        claim=claim.claim,
        published=claim.published,
        ours="–",
        value=None,
        interval=None,
        verdict="not run",
        finding=f"needs {claim.needs}",
        artefacts=(),
    )


def summary(rows: list[Row]) -> str:
    """One sentence from the verdicts."""
    words: tuple[Verdict, ...] = ("reproduced", "contradicted", "undecided", "not run")
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in words}
    tested = count["reproduced"] + count["contradicted"] + count["undecided"]
    parts = [f"{count['reproduced']} reproduced", f"{count['contradicted']} contradicted", f"{count['undecided']} undecided"]
    waiting = f"; {count['not run']} more need a cluster" if count["not run"] else ""
    return f"Of {tested} claims tested here, {text.listed(parts)}{waiting}."


def headline(rows: list[Row]) -> str:
    """What the verdicts are about, in a sentence or two: transfer over widths, then speed."""
    by_name = {row.name: row for row in rows}
    sentences = []
    mup, sp = by_name.get("drift-mup-width"), by_name.get("drift-sp-width")
    if mup is not None:
        stays = {
            "reproduced": "stays as width grows",
            "contradicted": "moves as width grows",
            "undecided": "cannot be told to stay or move as width grows",
        }[mup.verdict]
        control = {"reproduced": "; under SP it moves", "contradicted": "; under SP it stays too"}.get(sp.verdict if sp else "", "")
        sentences.append(f"Under μP the best learning rate {stays}{control}.")
    factors = [row for row in rows if row.name.startswith("speedup-")]
    if factors:
        sentences.append(f"Speed-up with the transferred rate: {text.listed([_factor(row) for row in factors])}.")
    return " ".join(sentences)


def _factor(row: Row) -> str:
    against = f"against {row.name.removeprefix('speedup-')}"
    if row.value is None:
        return f"no factor {against}"
    if row.interval is None:
        return f"{text.number(row.value, 1)}× {against} (one seed)"
    decided = not row.interval[0] <= 1 <= row.interval[1]
    return f"{text.number(row.value, 1)}× {against}" if decided else f"none beyond the spread of seeds {against}"


def _difference_interval(records: list[tuple[Mapping[str, Any], Mapping[str, Any]]], differences: list[float]) -> Bounds | None:
    if len(differences) > 1:
        interval = mean_interval(differences, records[0][0]["confidence"])
        return interval.low, interval.high
    halves = [_half_width(record) for record in records[0]]
    if any(half is None for half in halves):
        return None
    half = math.hypot(*(half for half in halves if half is not None))
    return differences[0] - half, differences[0] + half


def _half_width(record: Mapping[str, Any]) -> float | None:
    bounds = record.get("interval")
    return None if bounds is None else float(bounds[1] - bounds[0]) / 2


def _sign_verdict(bounds: Bounds | None) -> Verdict:
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "undecided"
    return "reproduced" if bounds[0] > 0 else "contradicted"


def _distance_finding(mean: float, bounds: Bounds | None, seeds: int) -> str:
    difference = f"difference {text.significant(mean)}"
    if bounds is None:
        return f"{difference}, no interval; one training seed"
    trained = "one training seed, interval over images" if seeds == 1 else f"{seeds} training seeds"
    return f"{difference} [{text.significant(bounds[0])}, {text.significant(bounds[1])}]; {trained}"


def _percent_interval(bounds: Bounds | None) -> str:
    return text.interval(None if bounds is None else (100 * bounds[0], 100 * bounds[1]))


def _where(value: float, speedup: Speedup) -> str:
    assert speedup.interval is not None
    if value < speedup.interval.low:
        return "below the interval"
    return "above the interval" if value > speedup.interval.high else "inside the interval"


def _seeds(speedup: Speedup, *who: str) -> str:
    affected = sum(which in who for which in speedup.diverged.values())
    return f"{affected} of {len(speedup.diverged) + len(speedup.factors)} seeds"


def _finite(bounds: Bounds) -> Bounds | None:
    return bounds if all(math.isfinite(value) for value in bounds) else None


def _finite_value(value: float) -> float | None:
    return value if math.isfinite(value) else None
