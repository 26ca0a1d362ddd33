"""What is kept of a run, and the journal that keeps it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict


class RunRecord(BaseModel):
    """One run. `losses`: horizon (steps) -> "mse" and "vb" on the fixed validation set, "train" (mean of the last steps).

    `first_loss` is null if not even the first step's loss was finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    status: Literal["finished", "diverged"]
    diverged_at: int | None  # step
    first_loss: float | None
    losses: dict[int, dict[str, float]]

    def loss(self, horizon: int) -> float:
        """Validation mse at a horizon; infinite if the run had diverged by then."""
        return self.losses[horizon]["mse"] if horizon in self.losses else math.inf

    def steps_run(self, last_horizon: int) -> int:
        """Optimizer steps that the run took, being one to `last_horizon`: a diverged run stops early."""
        return last_horizon if self.diverged_at is None else min(self.diverged_at + 1, last_horizon)


class TrialRecord(RunRecord):
    """A run of a sweep."""

    log2_lr: float


Losses = dict[tuple[float, int], dict[int, float]]


def losses(records: Iterable[TrialRecord], horizons: tuple[int, ...]) -> Losses:
    """What `plan.next_trials` reads."""
    return {(r.log2_lr, r.seed): {horizon: r.loss(horizon) for horizon in horizons} for r in records}


R = TypeVar("R", bound=RunRecord)


class Journal(Generic[R]):
    """Records of finished runs, one JSON line each. A line cut short by a kill is dropped and its run is repeated."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self._path = path
        self.records: list[R] = []
        if path.exists():
            lines = path.read_text().split("\n")
            self.records = [kind.model_validate_json(line) for line in lines[:-1]]
            if lines[-1]:
                path.write_text("".join(f"{record.model_dump_json()}\n" for record in self.records))

    def append(self, records: Sequence[R]) -> None:
        """Add finished runs, on disk first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write("".join(f"{record.model_dump_json()}\n" for record in records))
            file.flush()
        self.records.extend(records)
