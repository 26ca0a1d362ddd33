"""H1, a row per family: under muP activations keep their size as width grows, and the same check fails under SP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mudit.report import paper, text
from mudit.report.ledger.row import Row, Verdict
from mudit.select.optimum import Interval
from mudit.select.records import bounds


def gate_row(coordcheck: Mapping[str, Any]) -> Row:
    """From the `coordcheck.json` of one family."""
    family = coordcheck["family"]
    worst = coordcheck["schemes"]["mup"]["worst"]
    verdict, finding = _judge(coordcheck)
    interval = bounds(Interval(worst["low"], worst["high"]))
    known = family in paper.RULES
    return Row(
        name=f"rules-{family}",
        hypothesis="H1" if known else "",
        group="Parametrization",
        claim=f"μP of {paper.FAMILIES[family]} follows the rules of a plain Transformer",
        published=paper.RULES.get(family, paper.NONE),
        ours=f"steepest slope {text.number(worst['slope'], signed=True)} {text.interval(interval, signed=True)}",
        value=worst["slope"] if math.isfinite(worst["slope"]) else None,
        interval=interval,
        verdict=verdict if known else "measured",
        finding=finding,
        artefacts=(f"coordcheck/{family}",),
    )


def _judge(coordcheck: Mapping[str, Any]) -> tuple[Verdict, str]:
    """The gate passes or fails by points; a verdict wants every interval on one side of the tolerance."""
    tolerance, sp = coordcheck["tolerance"], coordcheck["schemes"]["sp"]
    slopes = coordcheck["schemes"]["mup"]["slopes"]
    steep = [slope for slope in slopes if not slope["flat"]]
    if any(_is_outside(slope, tolerance) for slope in steep):
        worst = coordcheck["schemes"]["mup"]["worst"]
        place = f"worst at {worst['name']}, step {worst['step']}"
        return "contradicted", f"{len(steep)} of {len(slopes)} slopes are not flat, {place}"
    crossing = [slope for slope in slopes if _reach(slope) > tolerance]
    if crossing:
        worst = max(crossing, key=_reach)
        interval = text.interval(bounds(Interval(worst["low"], worst["high"])), signed=True)
        points = "the points of all are within it" if not steep else f"the points of {len(steep)} are beyond it"
        return "undecided", (
            f"the intervals of {len(crossing)} of {len(slopes)} slopes cross ±{tolerance:g}, {points}; the farthest: "
            f"{worst['probe']} of {worst['name']} at step {worst['step']}, {text.number(worst['slope'], signed=True)} {interval}"
        )
    if not sp["failed"]:
        return "undecided", "the negative control, SP, is flat too: this check cannot tell right from wrong"
    return "reproduced", (
        f"all {len(slopes)} slopes are flat, with their intervals (±{tolerance:g}); under SP {sp['failed']} of {len(sp['slopes'])} "
        f"are not, the steepest {text.number(sp['worst']['slope'], signed=True)}"
    )


def _reach(slope: Mapping[str, Any]) -> float:
    """The interval's end that is farther from zero."""
    return max(abs(slope["low"]), abs(slope["high"]))


def _is_outside(slope: Mapping[str, Any], tolerance: float) -> bool:
    """Whether the whole interval is; a signal that vanished or is not finite at some width has no slope and counts, too."""
    low, high = slope["low"], slope["high"]
    return not math.isfinite(slope["slope"]) or low > tolerance or high < -tolerance
