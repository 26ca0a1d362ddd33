"""A pack while it runs: step by step, losses at the horizons, trials that diverge, and its state between two steps.

The learning rate is constant after warm-up, so one run to the longest horizon serves every horizon (as in the paper's Figure 3c).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mudit.sweep.packs import Checkpoint
from mudit.sweep.records import RunRecord
from mudit.train.group import Member, TrialGroup
from mudit.train.validation import ValidationSet

_TRAILING = 10  # steps of training loss whose mean decides divergence: one unlucky batch does not

NewGroup = Callable[[Sequence[Member]], TrialGroup]


class PackRun:
    """The group of a pack and what is known of each of its runs, from the start or from a checkpoint."""

    def __init__(self, new_group: NewGroup, members: Sequence[Member], checkpoint: Checkpoint | None = None) -> None:
        self.step = 0 if checkpoint is None else checkpoint.step
        self._runs = [_Run(member) for member in members]
        going = range(len(members))
        if checkpoint is not None:
            going = checkpoint.state["going"]
            for run, state in zip(self._runs, checkpoint.state["runs"], strict=True):
                run.load(state)
        self._going = [self._runs[place] for place in going]
        self._group = new_group([run.member for run in self._going])
        if checkpoint is not None:
            self._group.load(checkpoint.tensors)

    def steps(
        self, validation: ValidationSet, horizons: Sequence[int], divergence_factor: float, advance: Callable[..., Any]
    ) -> Iterator[None]:
        """Train to the last of the horizons (optimizer steps); a pause after each step but the last.

        A trial has diverged when a loss is not finite, or the mean of its last steps exceeds `divergence_factor` times its first
        loss; it stops there. `advance(trial_steps, **columns)` reports progress.
        """
        while True:
            self._step(divergence_factor, horizons[-1], advance)
            if not self._going:
                return
            if self.step in horizons:
                mse_K, vb_K = validation.losses(self._group.model, trials=len(self._going))
                for run, mse, vb in zip(self._going, mse_K.tolist(), vb_K.tolist(), strict=True):
                    run.measure(self.step, mse, vb)
            if self.step == horizons[-1]:
                return
            yield

    def records(self) -> list[RunRecord]:
        """A record per member, in their order."""
        return [run.record() for run in self._runs]

    def remaining(self, last_horizon: int) -> int:
        """Trial steps to go."""
        return len(self._going) * (last_horizon - self.step)

    def checkpoint(self) -> Checkpoint:
        """What another process needs to go on from here, bit for bit on the same machine. Tensors are not copied."""
        going = [place for place, run in enumerate(self._runs) if run in self._going]
        return Checkpoint(self.step, self._group.tensors(), {"going": going, "runs": [run.state() for run in self._runs]})

    def _step(self, divergence_factor: float, last_horizon: int, advance: Callable[..., Any]) -> None:
        losses = self._group.step(self.step).tolist()
        for run, loss in zip(self._going, losses, strict=True):
            run.observe(self.step, loss, divergence_factor)
        self.step += 1
        advance(len(losses), loss=min(losses))
        kept = [place for place, run in enumerate(self._going) if run.diverged_at is None]
        if len(kept) < len(self._going):
            advance((len(self._going) - len(kept)) * (last_horizon - self.step))
            self._group.keep(kept)
            self._going = [self._going[place] for place in kept]


class _Run:
    """What is known of one run so far."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._first_loss: float | None = None  # None, too, if it was not finite
        self._trailing: deque[float] = deque(maxlen=_TRAILING)
        self.diverged_at: int | None = None
        self._losses: dict[int, dict[str, float]] = {}

    def observe(self, step: int, loss: float, factor: float) -> None:
        if not math.isfinite(loss):
            self.diverged_at = step
            return
        if step == 0:
            self._first_loss = loss
        assert self._first_loss is not None, "a run without a finite first loss has diverged"
        self._trailing.append(loss)
        if len(self._trailing) == _TRAILING and self._trailing_mean > factor * self._first_loss:
            self.diverged_at = step

    def measure(self, horizon: int, mse: float, vb: float) -> None:
        if not math.isfinite(mse + vb):
            self.diverged_at = horizon
            return
        self._losses[horizon] = {"mse": mse, "vb": vb, "train": self._trailing_mean}

    def record(self) -> RunRecord:
        return RunRecord(
            seed=self.member.seed,
            status="finished" if self.diverged_at is None else "diverged",
            diverged_at=self.diverged_at,
            first_loss=self._first_loss,
            losses=self._losses,
        )

    def state(self) -> dict[str, Any]:
        """JSON values: every loss that is kept is finite."""
        return {
            "first_loss": self._first_loss,
            "trailing": list(self._trailing),
            "diverged_at": self.diverged_at,
            "losses": [[horizon, losses] for horizon, losses in self._losses.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what `state` described."""
        self._first_loss, self.diverged_at = state["first_loss"], state["diverged_at"]
        self._trailing.extend(state["trailing"])
        self._losses = dict(state["losses"])

    @property
    def _trailing_mean(self) -> float:
        return sum(self._trailing) / len(self._trailing)
