"""A row of the claims ledger: what the paper says, what we measured, and a verdict computed from the data.

Verdicts: `reproduced` and `contradicted` need an interval that decides; `undecided` says why it does not; `measured` is for figures
that the paper makes no claim about; `not run` says what running would take. Rows are pure functions of their evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mudit.report import text
from mudit.report.paper import Hypothesis, NotRun, Published
from mudit.select.optimum import mean_interval
from mudit.select.records import Bounds, bounds

Verdict = Literal["reproduced", "contradicted", "undecided", "measured", "not run"]

SCHEMES = {"mup": "μP", "sp": "SP", "sp-same-init": "SP with μP's initialisation"}


@dataclass(frozen=True)
class Row:
    """One line of the ledger. `value` and `interval` are in the unit that `ours` states; `finding` says in words what they mean."""

    name: str
    hypothesis: Hypothesis
    group: str
    claim: str
    published: Published
    ours: str
    value: float | None
    interval: Bounds | None
    verdict: Verdict
    finding: str
    artefacts: tuple[str, ...]


def not_run_row(claim: NotRun) -> Row:
    """A claim that needs a cluster."""
    return Row(
        name=claim.name,
        hypothesis=claim.hypothesis,
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


def sign_verdict(bounds: Bounds | None) -> Verdict:
    """Of a difference that is claimed to be positive."""
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "undecided"
    return "reproduced" if bounds[0] > 0 else "contradicted"


def student(values: Sequence[float], confidence: float) -> Bounds | None:
    """Student interval of a mean; None where a single value gives none."""
    return bounds(mean_interval(values, confidence))


def percent_interval(bounds: Bounds | None, digits: int = 2, *, signed: bool = False) -> str:
    """An interval of shares, in percent."""
    return text.interval(None if bounds is None else (100 * bounds[0], 100 * bounds[1]), digits, signed=signed)
