"""Run trials of one shape in groups, record losses at the horizons, stop what diverges.

The learning rate is constant, so one run to the longest horizon serves every horizon (as in the paper's Figure 3c).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mudit.sweep.records import TrialRecord
from mudit.train.group import Member, TrialGroup
from mudit.train.validation import ValidationSet

_TRAILING = 10  # steps of training loss whose mean decides divergence: one unlucky batch does not


def run_group(
    group: TrialGroup,
    validation: ValidationSet,
    horizons: Sequence[int],
    divergence_factor: float,
    advance: Callable[..., Any],
) -> tuple[list[TrialRecord], int]:
    """Train a group to the last horizon. Returns a record per member, and the trial-steps that were spent.

    A trial has diverged when its loss is not finite, or the mean of its last steps exceeds `divergence_factor` times its first
    loss; it stops there. `advance(trial_steps, **columns)` reports progress.
    """
    running = {member: _Running() for member in group.members}
    spent = 0
    for step in range(horizons[-1]):
        losses = group.step(step).tolist()
        spent += len(losses)
        for member, loss in zip(group.members, losses, strict=True):
            running[member].observe(step, loss, divergence_factor)
        advance(len(losses), loss=min(losses))
        diverged = [member for member in group.members if running[member].diverged_at is not None]
        if diverged:
            group.keep([index for index, member in enumerate(group.members) if member not in diverged])
            advance(len(diverged) * (horizons[-1] - step - 1))
        if not group.members:
            break
        if step + 1 in horizons:
            mse_K, vb_K = validation.losses(group.model, trials=len(group.members))
            for member, mse, vb in zip(group.members, mse_K.tolist(), vb_K.tolist(), strict=True):
                running[member].measure(step + 1, mse, vb)
    return [state.record(member) for member, state in running.items()], spent


class _Running:
    """What is known of one trial so far."""

    def __init__(self) -> None:
        self.first_loss = math.nan
        self.trailing: deque[float] = deque(maxlen=_TRAILING)
        self.diverged_at: int | None = None
        self.losses: dict[int, dict[str, float]] = {}

    def observe(self, step: int, loss: float, factor: float) -> None:
        if step == 0:
            self.first_loss = loss
        self.trailing.append(loss)
        mean = sum(self.trailing) / len(self.trailing)
        if not math.isfinite(loss) or (len(self.trailing) == _TRAILING and mean > factor * self.first_loss):
            self.diverged_at = step

    def measure(self, horizon: int, mse: float, vb: float) -> None:
        if not math.isfinite(mse):
            self.diverged_at = self.diverged_at if self.diverged_at is not None else horizon
            return
        self.losses[horizon] = {"mse": mse, "vb": vb, "train": sum(self.trailing) / len(self.trailing)}

    def record(self, member: Member) -> TrialRecord:
        return TrialRecord(
            log2_lr=member.log2_lr,
            seed=member.seed,
            status="finished" if self.diverged_at is None else "diverged",
            diverged_at=self.diverged_at,
            first_loss=self.first_loss,
            losses=self.losses,
        )
