"""H3: how much sooner the arm with the transferred learning rate reaches another arm's loss."""

from __future__ import annotations

from mudit.report import paper, text
from mudit.report.ledger.row import Row, Verdict
from mudit.report.speedup import Speedup


def speedup_row(subject: str, baseline: str, speedup: Speedup, *, published: bool, artefacts: tuple[str, ...]) -> Row:
    """Against one arm. Only DiT's arm as published has a claim in the paper; the others say what the claim is made of."""
    verdict, finding = _judge(subject, baseline, speedup, published)
    bounds = (speedup.interval.low, speedup.interval.high) if speedup.interval else None
    ours = "no factor" if speedup.mean is None else f"{text.number(speedup.mean)}× {text.interval(bounds)}"
    return Row(
        name=f"speedup-{baseline}",
        hypothesis="H3" if published else "",
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


def _judge(subject: str, baseline: str, speedup: Speedup, published: bool) -> tuple[Verdict, str]:
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


def _where(value: float, speedup: Speedup) -> str:
    assert speedup.interval is not None
    if value < speedup.interval.low:
        return "below the interval"
    return "above the interval" if value > speedup.interval.high else "inside the interval"


def _seeds(speedup: Speedup, *who: str) -> str:
    affected = sum(which in who for which in speedup.diverged.values())
    return f"{affected} of {len(speedup.diverged) + len(speedup.factors)} seeds"
