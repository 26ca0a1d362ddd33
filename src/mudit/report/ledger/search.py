"""H5's findings on sensitivity, from a random search: which base hyperparameters matter, and where their best values lie.

A hyperparameter's *share* is how much of the variance of the trials' ranks a quadratic in it alone explains (mudit.search).
Verdicts come from the shares' and optima's bootstrap intervals; where intervals overlap, nothing is decided.
"""

from __future__ import annotations

import math

from mudit.report import paper, text
from mudit.report.ledger.row import Row, Verdict, percent_interval
from mudit.report.paper import Published
from mudit.search.records import SearchResult, Sensitivity
from mudit.select.records import Bounds

NAMES = {
    "log2_lr": "learning rate",
    "log2_clip_norm": "gradient clip",
    "log2_alignment_weight": "REPA weight",
    "warmup_steps": "warm-up",
}
NEGLIGIBLE = 0.1  # share of the ranks' variance below which a hyperparameter does not matter
_GROUP = "Sensitivity of the search"


def sensitivity_rows(result: SearchResult) -> list[Row]:
    """One row per finding of the paper, and the REPA weight, of which it says nothing that is known here."""
    return [_most(result), _clip(result), _tight(result), _warmup(result), _repa(result), _edge(result)]


def sensitivity(result: SearchResult, name: str) -> Sensitivity | None:
    """Of one hyperparameter; None if the trials were too few."""
    return next((each for each in result.sensitivities or () if each.name == name), None)


def _most(result: SearchResult) -> Row:
    claim, published = "The learning rate matters most of what was searched", paper.LR_MATTERS
    rate = sensitivity(result, "log2_lr")
    if rate is None:
        return _unknown("sensitivity-lr", claim, published, result)
    others = [each for each in result.sensitivities or () if each is not rate]
    rival = max(others, key=lambda each: each.interval[1])
    verdict: Verdict = "undecided"
    if rate.interval[0] > rival.interval[1]:
        verdict, finding = "reproduced", f"next is the {NAMES[rival.name]}, {_share(rival)}"
    elif stronger := [each for each in others if each.interval[0] > rate.interval[1]]:
        verdict, finding = "contradicted", f"the {NAMES[stronger[0].name]} matters more: {_share(stronger[0])}"
    else:
        finding = f"the interval overlaps that of the {NAMES[rival.name]}, {_share(rival)}"
    ours = f"{_share(rate)} of the ranks' variance"
    return _row("sensitivity-lr", claim, published, ours, rate.share, rate.interval, verdict, finding)


def _clip(result: SearchResult) -> Row:
    """Decided if the clip matters at all and its optimum's interval tells the paper's clip from the habit that it warns of."""
    claim, published = "The best gradient clip is about 1", paper.CLIP
    clip = sensitivity(result, "log2_clip_norm")
    if clip is None:
        return _unknown("clip-best", claim, published, result)
    low, high = clip.best_interval
    habit = math.log2(paper.CLIP_HABIT)
    verdict: Verdict = "undecided"
    if clip.interval[0] <= clip.chance:
        # The lowest point of a curve that is flat but for noise is anywhere; the bootstrap of its place does not know that.
        finding = f"that the clip matters at all is not shown ({_share(clip)}; chance alone reaches {text.percent(clip.chance)})"
    elif not low <= paper.CLIP_LOG2 <= high:
        verdict, finding = "contradicted", f"the interval lies {'above' if low > paper.CLIP_LOG2 else 'below'} 1"
    elif low <= habit:
        finding = f"the interval holds 1, and the habitual {paper.CLIP_HABIT:g} as well"
    else:
        verdict, finding = "reproduced", f"the interval holds 1 and not the habitual {paper.CLIP_HABIT:g}"
    chosen = result.best.draw.log2_clip_norm
    ours = f"{_clip_norm(clip.best)} [{_clip_norm(low)}, {_clip_norm(high)}]; of the best trial {_clip_norm(chosen)}"
    return _row("clip-best", claim, published, ours, clip.best, clip.best_interval, verdict, finding)


def _tight(result: SearchResult) -> Row:
    """The fitted mean rank at a clip of about 0.1 less that at about 1, the others averaged out, with the difference's interval."""
    claim, published = "Tight gradient clipping spoils the result", paper.CLIP_TIGHT
    clip = sensitivity(result, "log2_clip_norm")
    if clip is None:
        return _unknown("clip-tight", claim, published, result)
    at_tight, at_loose = (_nearest(clip, math.log2(paper.CLIP_HABIT)), _nearest(clip, paper.CLIP_LOG2))
    tight, loose, interval = clip.curve[at_tight], clip.curve[at_loose], clip.differences[at_tight][at_loose]
    if interval[0] > 0:
        verdict: Verdict = "reproduced"
        finding = "tight clipping is worse"
    elif interval[1] < 0:
        verdict, finding = "contradicted", "tight clipping is better"
    else:
        verdict, finding = "undecided", "the interval holds 0"
    difference = tight.rank - loose.rank
    at_both = ", ".join(f"{text.number(point.rank, 3)} at {_clip_norm(point.value)}" for point in (tight, loose))
    shown = f"{text.number(difference, 3, signed=True)} {text.interval(interval, 3, signed=True)}"
    ours = f"mean rank (0 best, 1 worst) {at_both}: {shown}"
    return _row("clip-tight", claim, published, ours, difference, interval, verdict, finding)


def _warmup(result: SearchResult) -> Row:
    claim, published = "Warm-up is negligible", paper.WARMUP
    warmup = sensitivity(result, "warmup_steps")
    if warmup is None:
        return _unknown("sensitivity-warmup", claim, published, result)
    if warmup.interval[1] <= NEGLIGIBLE:
        verdict: Verdict = "reproduced"
        finding = f"the whole interval is within {text.percent(NEGLIGIBLE, 0)}"
    elif warmup.interval[0] > NEGLIGIBLE:
        verdict, finding = "contradicted", f"the whole interval is above {text.percent(NEGLIGIBLE, 0)}"
    else:
        verdict, finding = "undecided", f"the interval holds {text.percent(NEGLIGIBLE, 0)}, from which on it would matter"
    ours = f"{_share(warmup)} of the ranks' variance; chance alone reaches {text.percent(warmup.chance)}"
    return _row("sensitivity-warmup", claim, published, ours, warmup.share, warmup.interval, verdict, finding)


def _repa(result: SearchResult) -> Row:
    claim, published = "How much the weight of the REPA loss matters", paper.REPA
    repa = sensitivity(result, "log2_alignment_weight")
    if repa is None:
        return _unknown("sensitivity-repa", claim, published, result)
    low, high = repa.best_interval
    finding = f"best {2**repa.best:.2g} [{2**low:.2g}, {2**high:.2g}]; chance alone reaches {text.percent(repa.chance)}"
    ours = f"{_share(repa)} of the ranks' variance"
    return _row("sensitivity-repa", claim, published, ours, repa.share, repa.interval, "measured", finding)


def _edge(result: SearchResult) -> Row:
    """At the edge of stability the next doubling of the rate diverges; the share that does has Wilson's interval."""
    claim, published = "The best learning rate is not at the edge of stability", paper.NOT_AT_EDGE
    best = result.best.draw.log2_lr
    above = [trial for trial in result.trials if best < trial.draw.log2_lr <= best + 1]
    diverged = sum(trial.loss is None for trial in above)
    if not above:
        finding = "no trial lies within a doubling above the best rate"
        return _row("lr-not-at-edge", claim, published, f"log₂ {text.number(best)}", None, None, "undecided", finding)
    bounds = _wilson(diverged, len(above), result.confidence)
    if bounds[1] < 0.5:
        verdict: Verdict = "reproduced"
        finding = "most rates up to a doubling higher are stable"
    elif bounds[0] > 0.5:
        verdict, finding = "contradicted", "most rates up to a doubling higher diverge"
    else:
        verdict, finding = "undecided", "the interval holds one half: too few trials lie there"
    share = f"{diverged} of {len(above)} trials within a doubling above it diverge"
    ours = f"log₂ {text.number(best)}; {share} {percent_interval(bounds, 0)} %"
    return _row("lr-not-at-edge", claim, published, ours, diverged / len(above), bounds, verdict, finding)


def _row(
    name: str,
    claim: str,
    published: Published,
    ours: str,
    value: float | None,
    interval: Bounds | None,
    verdict: Verdict,
    finding: str,
) -> Row:
    return Row(name, "H5", _GROUP, claim, published, ours, value, interval, verdict, finding, ("search",))


def _unknown(name: str, claim: str, published: Published, result: SearchResult) -> Row:
    finding = f"{len(result.trials)} trials are too few to say"
    return _row(name, claim, published, "no value", None, None, "undecided", finding)


def _share(each: Sensitivity) -> str:
    return f"{text.percent(each.share)} {percent_interval(each.interval, 1)}"


def _clip_norm(log2: float) -> str:
    return f"{2**log2:.2g}"


def _nearest(each: Sensitivity, value: float) -> int:
    """Place of the curve's point."""
    return min(range(len(each.curve)), key=lambda place: abs(each.curve[place].value - value))


def _wilson(successes: int, count: int, confidence: float) -> Bounds:
    from scipy.stats import binomtest  # slow import

    interval = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
