"""H3 to H5 in quality: the arm with the transferred hyperparameters against another arm, by loss and by metrics of its images.

A *gain* is how much better the subject is, whatever the metric's direction, paired by training seed. With several seeds its
interval is Student's over seeds; with one it is that of the images alone, as if both runs' errors were independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mudit.report import text
from mudit.report.ledger.row import Row, Verdict, percent_interval, sign_verdict, student
from mudit.report.measures import MEASURES
from mudit.report.paper import Hypothesis, Published
from mudit.select.records import Bounds

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Contest:
    """Who is compared with whom, and what the paper says of it. A claim that is not made is only measured.

    `note`: how the paper's own contest differs; none is empty.
    """

    subject: str
    baseline: str
    name: str
    hypothesis: Hypothesis
    published: Published
    claimed: bool
    note: str = ""

    @property
    def arms(self) -> tuple[str, str]:
        """Subject and baseline."""
        return self.subject, self.baseline


def loss_row(
    contest: Contest,
    ours: Mapping[int, float | None],
    theirs: Mapping[int, float | None],
    confidence: float,
    artefacts: tuple[str, ...],
) -> Row:
    """Final validation loss by training seed, None if the run diverged. `value` is the relative gain."""
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    finished = [(mine, other) for mine, other in pairs if mine is not None and other is not None]
    base: dict[str, Any] = {
        "name": contest.name,
        "hypothesis": contest.hypothesis,
        "group": "Better than the baseline",
        "claim": f"At equal steps {contest.subject} has a lower validation loss than {contest.baseline}",
        "published": contest.published,
        "artefacts": artefacts,
    }
    if len(finished) < len(pairs) or not pairs:
        verdict, finding = _without_loss(contest, pairs)
        return Row(**base, ours="no difference", value=None, interval=None, verdict=_of(contest, verdict), finding=finding)
    gains = [(other - mine) / other for mine, other in finished]
    gain, bounds = sum(gains) / len(gains), student(gains, confidence)
    means = [sum(pair[side] for pair in finished) / len(finished) for side in (0, 1)]
    return Row(
        **base,
        ours=f"{text.significant(means[0], 4)} against {text.significant(means[1], 4)}: gain {text.percent(gain, 2, signed=True)} "
        f"{percent_interval(bounds, signed=True)}",
        value=gain,
        interval=bounds,
        verdict=_of(contest, sign_verdict(bounds)),
        finding=_finding(bounds, len(seeds), "a single seed gives no interval") + _noted(contest),
    )


def metric_row(contest: Contest, name: str, ours: Mapping[int, Record], theirs: Mapping[int, Record]) -> Row:
    """A metric of generated images, records by training seed."""
    measure = MEASURES[name]
    seeds = sorted(ours.keys() & theirs.keys())
    records = [(ours[seed], theirs[seed]) for seed in seeds]
    base: dict[str, Any] = {
        "name": contest.name,
        "hypothesis": contest.hypothesis,
        "group": "Images",
        "claim": f"At equal steps {contest.subject}'s images are better than {contest.baseline}'s ({measure.label})",
        "published": contest.published,
        "artefacts": tuple(f"{stage}/{arm}_s{seed}" for stage in ("sample", "evaluate") for seed in seeds for arm in contest.arms),
    }
    unusable = next((record for pair in records for record in pair if record["value"] is None), None)
    if unusable is not None or not records:
        finding = "no seed was evaluated in both arms" if unusable is None else f"{unusable['run']}: {unusable['reason']}"
        return Row(**base, ours="no value", value=None, interval=None, verdict=_of(contest, "undecided"), finding=finding)
    sign = 1 if measure.higher_is_better else -1
    gains = [sign * (mine["value"] - other["value"]) for mine, other in records]
    gain, bounds = sum(gains) / len(gains), _interval(records, gains)
    values = [sum(pair[side]["value"] for pair in records) / len(records) for side in (0, 1)]
    return Row(
        **base,
        ours=f"{text.significant(values[0])} against {text.significant(values[1])}: gain {_signed(gain)} {_bounds(bounds)}"
        f"{_limits([mine for mine, _ in records])}",
        value=gain,
        interval=bounds,
        verdict=_of(contest, sign_verdict(bounds)),
        finding=_finding(bounds, len(seeds), "no interval") + _noted(contest) + _caution(records),
    )


def _noted(contest: Contest) -> str:
    return f"; {contest.note}" if contest.note else ""


def _of(contest: Contest, verdict: Verdict) -> Verdict:
    return verdict if contest.claimed else "measured"


def _without_loss(contest: Contest, pairs: list[tuple[float | None, float | None]]) -> tuple[Verdict, str]:
    """Where a run diverged, or none can be paired."""
    if not pairs:
        return "undecided", "no seed was trained in both arms"
    ours, theirs = (sum(pair[side] is None for pair in pairs) for side in (0, 1))
    if ours:
        return "contradicted", f"{contest.subject} diverged in {ours} of {len(pairs)} seeds"
    return "undecided", f"{contest.baseline} diverged in {theirs} of {len(pairs)} seeds: there is no difference"


def limit(record: Record, which: str) -> float | None:
    """`chance`, `floor` (what a perfect generator scores, or what needs no skill) or `ceiling` of a record, however it is kept."""
    found = record.get(which) or record.get("matched", {}).get(which)
    return found["value"] if isinstance(found, Mapping) else found


def _limits(records: list[Record]) -> str:
    shown = []
    for which in ("floor", "ceiling"):
        values = [value for record in records if (value := limit(record, which)) is not None]
        if values:
            shown.append(f"; {which} {text.significant(sum(values) / len(values))}")
    return "".join(shown)


def _caution(records: list[tuple[Record, Record]]) -> str:
    """What a reader must know of the judge, if the records say so."""
    cautions = {f"{caution} ({record['run']})" for pair in records for record in pair if (caution := record.get("caution"))}
    return f"; {sorted(cautions)[0]}" if cautions else ""


def _finding(bounds: Bounds | None, seeds: int, no_interval: str) -> str:
    trained = "one training seed, interval over images" if seeds == 1 else f"{seeds} training seeds"
    if bounds is None:
        return f"undecided: {no_interval}"
    if bounds[0] > 0:
        return f"better; {trained}"
    if bounds[1] < 0:
        return f"worse; {trained}"
    return f"undecided: the interval holds zero; {trained}"


def _interval(records: list[tuple[Record, Record]], gains: list[float]) -> Bounds | None:
    if len(gains) > 1:
        return student(gains, records[0][0]["confidence"])
    halves = [_half_width(record) for record in records[0]]
    if any(half is None for half in halves):
        return None
    half = math.hypot(*(half for half in halves if half is not None))
    return gains[0] - half, gains[0] + half


def _half_width(record: Record) -> float | None:
    bounds = record.get("interval")
    return None if bounds is None else float(bounds[1] - bounds[0]) / 2


def _signed(value: float) -> str:
    shown = text.significant(abs(value))
    return f"{'−' if value < 0 else '+'}{shown}"


def _bounds(bounds: Bounds | None) -> str:
    return "(no interval)" if bounds is None else f"[{_signed(bounds[0])}, {_signed(bounds[1])}]"
