"""Run trials of one shape in packs, record losses at the horizons, stop what diverges: the engine of sweeps and random search.

The learning rate is constant after warm-up, so one run to the longest horizon serves every horizon (as in the paper's Figure 3c).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mudit.sweep.records import RunRecord
from mudit.train.group import Member, TrialGroup, measure_group_size
from mudit.train.validation import ValidationSet

log = logging.getLogger(__name__)

_TRAILING = 10  # steps of training loss whose mean decides divergence: one unlucky batch does not
_LARGEST_PACK = 16  # a kill costs the pack that was running, and the gain from packing is had early (docs/benchmarks.md)


class PackedRuns:
    """Runs members of one shape to the last of `horizons` (optimizer steps), in packs of the size that is fastest here.

    The size is measured before the first pack and changes no number.
    """

    def __init__(
        self,
        name: str,
        new_group: Callable[[Sequence[Member]], TrialGroup],
        validation: ValidationSet,
        horizons: Sequence[int],
        divergence_factor: float,
    ) -> None:
        self._name, self._new_group, self._validation = name, new_group, validation
        self._horizons, self._divergence_factor = horizons, divergence_factor
        self.size = 0  # trials at once; 0 until something ran
        self.seconds: dict[int, float] = {}  # trials at once -> measured seconds per trial and step

    def run(self, members: Sequence[Member], advance: Callable[..., Any]) -> Iterator[list[tuple[Member, RunRecord]]]:
        """A pack at a time, each when it is finished. `advance(trial_steps, **columns)` reports progress."""
        if members and not self.size:
            self.size, self.seconds = measure_group_size(self._new_group, members[:_LARGEST_PACK])
            if self.seconds:
                timings = ", ".join(f"{size}: {seconds * 1e3:.1f}" for size, seconds in self.seconds.items())
                log.info("%s: %d trials at once is fastest: %s ms per trial and step", self._name, self.size, timings)
            else:
                log.info("%s: this model has no packed form, so trials run one after another", self._name)
        for start in range(0, len(members), max(1, self.size)):
            pack = members[start : start + self.size]
            records = run_group(self._new_group(pack), self._validation, self._horizons, self._divergence_factor, advance)
            yield list(zip(pack, records, strict=True))


def run_group(
    group: TrialGroup,
    validation: ValidationSet,
    horizons: Sequence[int],
    divergence_factor: float,
    advance: Callable[..., Any],
) -> list[RunRecord]:
    """Train a group to the last horizon. Returns a record per member, in the group's order.

    A trial has diverged when a loss is not finite, or the mean of its last steps exceeds `divergence_factor` times its first
    loss; it stops there. `advance(trial_steps, **columns)` reports progress.
    """
    runs = [_Run(member) for member in group.members]
    running = list(runs)
    for step in range(horizons[-1]):
        losses = group.step(step).tolist()
        for run, loss in zip(running, losses, strict=True):
            run.observe(step, loss, divergence_factor)
        advance(len(losses), loss=min(losses))
        going = [index for index, run in enumerate(running) if run.diverged_at is None]
        if len(going) < len(running):
            advance((len(running) - len(going)) * (horizons[-1] - step - 1))
            group.keep(going)
            running = [running[index] for index in going]
        if not running:
            break
        if step + 1 in horizons:
            mse_K, vb_K = validation.losses(group.model, trials=len(running))
            for run, mse, vb in zip(running, mse_K.tolist(), vb_K.tolist(), strict=True):
                run.measure(step + 1, mse, vb)
    return [run.record() for run in runs]


class _Run:
    """What is known of one run so far."""

    def __init__(self, member: Member) -> None:
        self._seed = member.seed
        self._first_loss = math.nan
        self._trailing: deque[float] = deque(maxlen=_TRAILING)
        self.diverged_at: int | None = None
        self._losses: dict[int, dict[str, float]] = {}

    def observe(self, step: int, loss: float, factor: float) -> None:
        if step == 0:
            self._first_loss = loss
        self._trailing.append(loss)
        mean = sum(self._trailing) / len(self._trailing)
        if not math.isfinite(loss) or (len(self._trailing) == _TRAILING and mean > factor * self._first_loss):
            self.diverged_at = step

    def measure(self, horizon: int, mse: float, vb: float) -> None:
        if not math.isfinite(mse + vb):
            self.diverged_at = horizon
            return
        self._losses[horizon] = {"mse": mse, "vb": vb, "train": sum(self._trailing) / len(self._trailing)}

    def record(self) -> RunRecord:
        return RunRecord(
            seed=self._seed,
            status="finished" if self.diverged_at is None else "diverged",
            diverged_at=self.diverged_at,
            first_loss=self._first_loss if math.isfinite(self._first_loss) else None,
            losses=self._losses,
        )
