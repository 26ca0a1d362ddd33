"""H1, a row per family: under muP activations keep their size as width grows, and the same check fails under SP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mudit.report import paper, text
from mudit.report.ledger.row import Row, Verdict, finite


def gate_row(coordcheck: Mapping[str, Any]) -> Row:
    """From the `coordcheck.json` of one family."""
    family = coordcheck["family"]
    worst = coordcheck["schemes"]["mup"]["worst"]
    verdict, finding = _judge(coordcheck)
    bounds = finite((worst["low"], worst["high"]))
    known = family in paper.RULES
    return Row(
        name=f"rules-{family}",
        hypothesis="H1" if known else "",
        group="Parametrization",
        claim=f"μP of {paper.FAMILIES[family]} follows the rules of a plain Transformer",
        published=paper.RULES.get(family, paper.NONE),
        ours=f"steepest slope {text.number(worst['slope'], signed=True)} {text.interval(bounds, signed=True)}",
        value=worst["slope"] if math.isfinite(worst["slope"]) else None,
        interval=bounds,
        verdict=verdict if known else "measured",
        finding=finding,
        artefacts=(f"coordcheck/{family}",),
    )


def _judge(coordcheck: Mapping[str, Any]) -> tuple[Verdict, str]:
    mup, sp = coordcheck["schemes"]["mup"], coordcheck["schemes"]["sp"]
    if mup["failed"]:
        worst = mup["worst"]
        place = f"worst at {worst['name']}, step {worst['step']}"
        return "contradicted", f"{mup['failed']} of {len(mup['slopes'])} slopes are not flat, {place}"
    if not sp["failed"]:
        return "undecided", "the negative control, SP, is flat too: this check cannot tell right from wrong"
    return "reproduced", (
        f"all {len(mup['slopes'])} slopes are flat (±{coordcheck['tolerance']:g}); under SP {sp['failed']} of {len(sp['slopes'])} "
        f"are not, the steepest {text.number(sp['worst']['slope'], signed=True)}"
    )
