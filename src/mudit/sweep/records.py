"""What is kept of a run, and the journal that keeps it. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from mudit.jobs.distributed import World, broadcast, gather


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
    """Records of finished runs, one JSON line each. A line cut short by a kill is dropped and its run is repeated.

    With several processes each writes a file of its own beside rank 0's, and `records` are the same on all of them after `share`.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        """Rank 0 reads the files of all processes of earlier starts; no process may have begun to append."""
        world = World.of_environment()
        self._path = path if world.main else _of_rank(path, str(world.rank))
        self.records: list[R] = broadcast(_read(path, kind) if world.main else [])
        self._shared = len(self.records)

    def append(self, records: Sequence[R]) -> None:
        """Add runs that this process finished, on disk first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write("".join(f"{record.model_dump_json()}\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        self.records.extend(records)

    def share(self) -> None:
        """Exchange what was appended since the last time. Called by all processes."""
        self.records[self._shared :] = chain.from_iterable(gather(self.records[self._shared :]))
        self._shared = len(self.records)


def _of_rank(path: Path, rank: str) -> Path:
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


def _read(path: Path, kind: type[R]) -> list[R]:
    """All records of all processes. Files are cut back to whole lines."""
    records = []
    for file in [path, *sorted(path.parent.glob(_of_rank(path, "*").name))]:
        if file.exists():
            *lines, torn = file.read_text().split("\n")
            records += [kind.model_validate_json(line) for line in lines]
            if torn:
                file.write_text("".join(f"{line}\n" for line in lines))
    return records
