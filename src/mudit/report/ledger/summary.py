"""What a page says first: verdicts counted, contradictions named, and the main findings in a sentence or two."""

from __future__ import annotations

from mudit.report import paper, text
from mudit.report.ledger.row import Row, Verdict

_RULES = "rules-"


def summary(rows: list[Row]) -> str:
    """The verdicts counted."""
    words: tuple[Verdict, ...] = ("reproduced", "contradicted", "undecided", "not run")
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in words}
    tested = count["reproduced"] + count["contradicted"] + count["undecided"]
    parts = [f"{count['reproduced']} reproduced", f"{count['contradicted']} contradicted", f"{count['undecided']} undecided"]
    waiting = f"; {count['not run']} more {'needs' if count['not run'] == 1 else 'need'} a cluster" if count["not run"] else ""
    return f"Of {tested} claim{'s' if tested != 1 else ''} tested here, {text.listed(parts)}{waiting}."


def contradictions(rows: list[Row]) -> list[str]:
    """Each claim that the evidence here contradicts, with what was found instead."""
    return [f"{row.claim}: {row.ours}; {row.finding}." for row in rows if row.verdict == "contradicted"]


def headline(rows: list[Row]) -> str:
    """What the verdicts are about: transfer over widths, then the target, then the search; if there is none, the gate."""
    by_name = {row.name: row for row in rows}
    sentences = [*_transfer(by_name), *_multiplier(by_name), *_better(rows), *_search(by_name), *_speed(rows)]
    return " ".join(sentences or _gate(rows))


def _gate(rows: list[Row]) -> list[str]:
    gates = [row for row in rows if row.name.startswith(_RULES)]
    families = [paper.FAMILIES[row.name.removeprefix(_RULES)] for row in gates]
    if all(row.verdict == "reproduced" for row in gates):
        return [f"Activations of {text.listed(families)} keep their size with width under μP, and not under SP."]
    return [f"The coordinate check of {text.listed(families)} does not show what μP promises."]


def _transfer(rows: dict[str, Row]) -> list[str]:
    mup, sp = rows.get("drift-mup-width"), rows.get("drift-sp-width")
    if mup is None or mup.verdict == "measured":
        return []
    stays = {
        "reproduced": "stays as width grows",
        "contradicted": "moves as width grows",
        "undecided": "cannot be told to stay or move as width grows",
    }[mup.verdict]
    control = {"reproduced": "; under SP it moves", "contradicted": "; under SP it stays too"}.get(sp.verdict if sp else "", "")
    return [f"Under μP the best learning rate {stays}{control}."]


def _multiplier(rows: dict[str, Row]) -> list[str]:
    drift = rows.get("output-mult-drift")
    if drift is None:
        return []
    known = "its drift is not known" if drift.value is None else f"it drifts by {drift.ours} of width"
    return [f"The best multiplier of the readout: {known}."]


def _speed(rows: list[Row]) -> list[str]:
    factors = [row for row in rows if row.name.startswith("speedup-")]
    return [f"Speed-up with the transferred rate: {text.listed([_factor(row) for row in factors])}."] if factors else []


def _factor(row: Row) -> str:
    against = f"against {row.name.removeprefix('speedup-')}"
    if row.value is None:
        return f"no factor {against}"
    if row.interval is None:
        return f"{text.number(row.value, 1)}× {against} (one seed)"
    decided = not row.interval[0] <= 1 <= row.interval[1]
    return f"{text.number(row.value, 1)}× {against}" if decided else f"none beyond the spread of seeds {against}"


def _better(rows: list[Row]) -> list[str]:
    """The claim "better than the baseline", by loss and by images."""
    claimed = [row for row in rows if row.name.startswith("better-") and row.verdict != "measured"]
    if not claimed:
        return []
    count = {verdict: sum(row.verdict == verdict for row in claimed) for verdict in ("reproduced", "contradicted", "undecided")}
    total = len(claimed)
    if count["reproduced"] == total:
        return ["Better than the baseline by every measure that the claim is about."]
    if count["contradicted"] == total:
        return ["Worse than the baseline by every measure that the claim is about."]
    words = {"reproduced": "better", "contradicted": "worse", "undecided": "undecided"}
    parts = [f"{words[verdict]} by {number}" for verdict, number in count.items() if number]
    return [f"Against the baseline, of {total} measure{'s' if total > 1 else ''}: {text.listed(parts)}."]


def _search(rows: dict[str, Row]) -> list[str]:
    rate = rows.get("sensitivity-lr")
    if rate is None:
        return []
    return [
        {
            "reproduced": "The learning rate matters most of what was searched.",
            "contradicted": "The learning rate is not what matters most of what was searched.",
            "undecided": "Whether the learning rate matters most is undecided.",
        }[rate.verdict]
    ]
