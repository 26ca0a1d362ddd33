"""H2 and its controls: does the best learning rate stay as an axis grows, what is it, and what does using it elsewhere cost?"""

from __future__ import annotations

import math

from mudit.report import paper, text
from mudit.report.ledger.row import SCHEMES, Row, Verdict, percent_interval
from mudit.report.paper import Hypothesis, Published
from mudit.report.published_tables import FIGURE_3
from mudit.select.certificate import AxisName, AxisResult, Regret, SettingResult

AXES: dict[AxisName, str] = {"width": "width", "batch_size": "batch size", "steps": "number of steps"}
GROUP = "Transfer of the learning rate"
_DIT_AXES: dict[AxisName, Published] = {"width": paper.WIDTH, "batch_size": paper.BATCH_SIZE, "steps": paper.STEPS}
_OF_TRANSFER: dict[str, Verdict] = {"transfers": "reproduced", "drifts": "contradicted", "undecided": "undecided"}
_OF_CONTROL: dict[str, Verdict] = {"transfers": "contradicted", "drifts": "reproduced", "undecided": "undecided"}
# A sweep tests the claim that its family stands for; U-ViT's is what the theorem says of it.
HYPOTHESIS: dict[str, Hypothesis] = {"dit": "H2", "uvit": "H1", "pixart": "H4", "mmdit": "H5"}


def drift_row(axis: AxisResult, tolerance: float, family: str) -> Row:
    """The certificate's verdict, read against the claim. The axis has two values at least."""
    assert axis.drift is not None
    scheme, what = SCHEMES[axis.scheme], AXES[axis.axis]
    published = published_drift(family, axis)
    if axis.scheme == "mup":
        claim, verdict = f"Under {scheme} the best base learning rate is the same for every {what}", _OF_TRANSFER[axis.verdict]
    elif axis.axis == "width":
        claim, verdict = f"Control: under {scheme} the best learning rate moves with {what}", _OF_CONTROL[axis.verdict]
    else:
        claim, verdict = f"Beside it: the best learning rate of {scheme} as {what} grows", "measured"
    return Row(
        name=f"drift-{axis.scheme}-{axis.axis}",
        hypothesis="" if published is paper.NONE else HYPOTHESIS[family],
        group=GROUP,
        claim=claim,
        published=published,
        ours=f"{text.number(axis.drift, signed=True)} {text.interval(axis.drift_interval, signed=True)} per doubling",
        value=axis.drift,
        interval=axis.drift_interval,
        verdict="measured" if published is paper.NONE else verdict,
        finding=drift_finding(axis, tolerance),
        artefacts=("select", *dict.fromkeys(f"sweep/{setting.setting}" for setting in axis.settings)),
    )


def published_drift(family: str, axis: AxisResult) -> Published:
    """What the paper, or the theory that it stands on, says of a family along an axis. `paper.NONE` makes no claim."""
    if family not in paper.RULES:
        return paper.NONE
    if axis.scheme == "mup":
        return _DIT_AXES[axis.axis] if family == "dit" else paper.THEORY if axis.axis == "width" else paper.NONE
    return paper.SP_WIDTH if axis.axis == "width" else paper.NONE


def drift_finding(axis: AxisResult, tolerance: float) -> str:
    """The certificate's verdict in words."""
    if axis.drift is None:
        return "one value: whether the rate transfers was not measured"
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


def base_lr_row(proxy: SettingResult, settings: list[SettingResult], base_width: int, family: str, *, comparable: bool) -> Row:
    """The best base learning rate itself: a number of its model and data, so a claim only for the paper's own (`comparable`)."""
    edge = sum(setting.at_stability_edge for setting in settings)
    ratio = 2 ** (proxy.best_log2_lr - paper.BASE_LR_LOG2)
    published = paper.BASE_LR.get(family, paper.NONE)
    beside = "" if published is paper.NONE else f"{ratio:g} times the paper's; "
    share = f" (paper: in {_diverging_above_the_best()} of {len(FIGURE_3)})" if family == "dit" else ""
    return Row(
        name="base-lr",
        hypothesis="" if published is paper.NONE else HYPOTHESIS[family],
        group=GROUP,
        claim="The best base learning rate",
        published=published,
        ours=f"log₂ {text.number(proxy.optimum)} {text.interval(proxy.interval)}; grid point {text.number(proxy.best_log2_lr, 0)}",
        value=proxy.optimum,
        interval=proxy.interval,
        verdict=_same_rate(proxy) if comparable else "measured",
        finding=f"{beside}it belongs to its data, depth and base width ({base_width}). "
        f"In {edge} of {len(settings)} settings the next rate up diverges{share}",
        artefacts=("select", f"sweep/{proxy.setting}"),
    )


def _diverging_above_the_best() -> int:
    """Curves of Figure 3 whose next rate after the best diverged."""
    after_best = [row.fid[row.fid.index(min(fid for fid in row.fid if not math.isnan(fid))) + 1 :] for row in FIGURE_3]
    return sum(math.isnan(rest[0]) for rest in after_best if rest)


def _same_rate(proxy: SettingResult) -> Verdict:
    if proxy.best_log2_lr == paper.BASE_LR_LOG2:
        return "reproduced"
    known = proxy.interval is not None and not proxy.interval[0] <= paper.BASE_LR_LOG2 <= proxy.interval[1]
    return "contradicted" if known else "undecided"


def regret_row(
    scheme: str, regret: Regret, proxy: SettingResult, target: SettingResult, doubling_gain: float | None, family: str
) -> Row:
    """What the transferred learning rate costs at the target's width, against that width's own sweep.

    doubling_gain: relative loss that one doubling of width gains, the yardstick; None if the sweeps do not show it.
    """
    name = SCHEMES[scheme]
    verdict, finding = _judge_regret(regret, doubling_gain)
    relative = regret.relative
    ours = "diverges" if relative is None else f"{text.percent(relative, 2)} {percent_interval(regret.interval)} more loss"
    claimed = scheme == "mup" and family in paper.RULES
    return Row(
        name=f"regret-{scheme}",
        hypothesis=HYPOTHESIS[family] if claimed else "",
        group=GROUP,
        claim=(
            f"The proxy's best rate is as good as the best of width {regret.value}'s own sweep"
            if scheme == "mup"
            else f"Control: the same transfer under {name}, to width {regret.value}"
        ),
        published=paper.NO_TUNING if claimed else paper.NONE,
        ours=ours,
        value=relative,
        interval=regret.interval,
        verdict=verdict if claimed else "measured",
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
