"""What the page says first."""

from __future__ import annotations

from dataclasses import replace

from mudit.report import paper
from mudit.report.ledger.gate import gate_row
from mudit.report.ledger.row import Row, not_run_row
from mudit.report.ledger.speed import speedup_row
from mudit.report.ledger.summary import contradictions, headline, summary
from mudit.report.ledger.transfer import drift_row

from ..synthetic import coordcheck
from .made import axis, speedup


def drift(verdict: str, scheme: str = "mup") -> Row:
    return drift_row(axis(verdict, scheme=scheme), 0.25, "dit")  # type: ignore[arg-type]


def better(verdict: str, name: str = "loss") -> Row:
    return replace(drift("transfers"), name=f"better-{name}-sp", verdict=verdict)  # type: ignore[arg-type]


def test_counts_verdicts() -> None:
    expected = "Of 2 claims tested here, 1 reproduced, 1 contradicted and 0 undecided; 1 more needs a cluster."
    assert summary([drift("transfers"), drift("drifts"), not_run_row(paper.NOT_RUN[0])]) == expected


def test_contradictions_are_named_with_what_was_found() -> None:
    (line,) = contradictions([drift("transfers"), drift("drifts")])
    assert line.startswith(
        "Under μP the best base learning rate is the same for every width: −0.30 [−0.40, −0.10] per doubling; drifts"
    )


def test_headline_says_a_contradiction_plainly() -> None:
    rows = [drift("drifts"), drift("transfers", scheme="sp")]
    assert headline(rows) == "Under μP the best learning rate moves as width grows; under SP it stays too."


def test_headline_says_that_one_seed_is_one_seed() -> None:
    row = speedup_row("mup", "sp-tuned", speedup(1.1), published=False, artefacts=())
    assert headline([row]) == "Speed-up with the transferred rate: 1.1× against sp-tuned (one seed)."


def test_headline_calls_no_difference_a_speed_up() -> None:
    row = speedup_row("mup", "sp-tuned", speedup(1.1, 0.9, 1.3), published=False, artefacts=())
    assert headline([row]) == "Speed-up with the transferred rate: none beyond the spread of seeds against sp-tuned."


def test_headline_of_a_gate_alone() -> None:
    rows = [gate_row(coordcheck("uvit")), gate_row(coordcheck("mmdit"))]
    assert headline(rows) == "Activations of U-ViT and MMDiT keep their size with width under μP, and not under SP."
    failed = [gate_row(coordcheck("uvit", sp_failed=0))]
    assert headline(failed) == "The coordinate check of U-ViT does not show what μP promises."


def test_headline_counts_the_measures_of_a_claim() -> None:
    assert headline([better("reproduced")]) == "Better than the baseline by every measure that the claim is about."
    assert headline([better("contradicted")]) == "Worse than the baseline by every measure that the claim is about."
    mixed = [better("reproduced"), better("undecided", "clip"), better("contradicted", "kid"), better("measured", "beside")]
    assert headline(mixed) == "Against the baseline, of 3 measures: better by 1, worse by 1 and undecided by 1."
