"""What is kept of a trial, and the journal that keeps it. Imports no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class TrialRecord(BaseModel):
    """One run. `losses`: horizon (steps) -> "mse" and "vb" on the fixed validation set, "train" (mean of the last steps)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    log2_lr: float
    seed: int
    status: Literal["finished", "diverged"]
    diverged_at: int | None  # step
    first_loss: float
    losses: dict[int, dict[str, float]]

    def loss(self, horizon: int) -> float:
        """Validation mse at a horizon; infinite if the run had diverged by then."""
        return self.losses[horizon]["mse"] if horizon in self.losses else math.inf


class Journal:
    """Finished trials, one JSON line each. A line cut short by a kill is dropped and its trial runs again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: list[TrialRecord] = []
        if path.exists():
            lines = path.read_text().split("\n")
            self.records = [TrialRecord.model_validate_json(line) for line in lines[:-1]]
            if lines[-1]:
                path.write_text("".join(f"{record.model_dump_json()}\n" for record in self.records))

    def append(self, records: list[TrialRecord]) -> None:
        """Add finished trials, on disk first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write("".join(f"{record.model_dump_json()}\n" for record in records))
            file.flush()
        self.records.extend(records)

    def losses(self, horizons: tuple[int, ...]) -> dict[tuple[float, int], dict[int, float]]:
        """What `plan.next_trials` reads."""
        return {(r.log2_lr, r.seed): {horizon: r.loss(horizon) for horizon in horizons} for r in self.records}
