"""The target runs as a section of the page: convergence, speed-ups, and what each arm trained with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mudit.report import text
from mudit.report.convergence_figure import LOSSES, draw_losses, draw_speedups
from mudit.report.evidence import Evidence
from mudit.report.ledger.row import SCHEMES, Row
from mudit.report.rows import CONVERGENCE_LOSS, speedups


def target_section(evidence: Evidence, rows: list[Row], panel: Callable[..., str]) -> dict[str, Any]:
    """Loss curves of raw and averaged weights, the forest of speed-ups, the table of arms."""
    figures = [
        panel(f"convergence-{loss}", f"Validation loss against steps, {what}", partial(draw_losses, runs=evidence.runs, loss=loss))
        for loss, what in LOSSES.items()
    ]
    factors = speedups(evidence)
    forest = None
    if evidence.subject is not None and factors:
        draw = partial(
            draw_speedups,
            subject=evidence.subject,
            speedups=factors,
            arms=evidence.arms,
            claimed=evidence.family == "dit",
        )
        forest = panel("speedups", "Speed-up against each arm", draw, width=6.0, height=1.3 + 0.55 * len(factors))
    return {
        "panels": figures,
        "forest": forest,
        "subject": evidence.subject,
        "rows": [row for row in rows if row.name.startswith(("speedup-", "better-loss-"))],
        "arms": [_arm(evidence, arm) for arm in evidence.arms],
        "clips": any(each.clip_norm is not None for each in evidence.hyperparameters.values()),
        "aligns": any(each.alignment_weight for each in evidence.hyperparameters.values()),
        "warms": any(each.warmup_steps for each in evidence.hyperparameters.values()),
    }


def _arm(evidence: Evidence, arm: str) -> dict[str, str]:
    chosen, runs = evidence.hyperparameters[arm], list(evidence.of_arm(arm).values())
    finals = [loss for run in runs if (loss := run.final(CONVERGENCE_LOSS)) is not None]
    diverged = [f"seed {run.target.seed} at step {run.diverged_at}" for run in runs if run.diverged_at is not None]
    return {
        "name": arm,
        "scheme": SCHEMES[chosen.scheme],
        "log2_lr": text.number(chosen.log2_lr, 2).removesuffix(".00"),
        "clip": "none" if chosen.clip_norm is None else f"{chosen.clip_norm:.3g}",
        "alignment": f"{chosen.alignment_weight:.3g}" if chosen.alignment_weight else "none",
        "warmup": str(chosen.warmup_steps),
        "source": chosen.source,
        "seeds": str(len(runs)),
        "final": text.significant(sum(finals) / len(finals), 4) if finals else "–",
        "range": f"{text.significant(min(finals), 4)} to {text.significant(max(finals), 4)}" if finals else "–",
        "diverged": "; ".join(diverged) or "none",
    }
