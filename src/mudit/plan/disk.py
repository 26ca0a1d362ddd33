"""Is there room for what a study has still to make? Imports no torch.

Results and state may lie on different disks, behind links, and on one disk a finished file of the state costs nothing in the
results: it is linked. What unfinished jobs have in their state already need not find room again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mudit.errors import DataError
from mudit.plan.estimate import JobPlan
from mudit.plan.show import size


def check(study: str, jobs: Iterable[JobPlan], unfinished: Mapping[str, Path]) -> None:
    """Raises DataError if one of the disks has less room than the open `jobs` may yet fill on it.

    unfinished: artefact id -> folder of the state with which its job will go on.
    """
    needs: dict[int, int] = {}
    places: dict[int, Path] = {}
    for job in jobs:
        for place, needed in _needs(job, unfinished.get(job.artefact.id)):
            device = place.stat().st_dev
            needs[device] = needs.get(device, 0) + needed
            places.setdefault(device, place)
    for device, place in places.items():
        free = shutil.disk_usage(place).free
        if needs[device] > free:
            raise DataError(f"study {study} may yet fill {size(needs[device])}, and {size(free)} are free in {place}; make room")


def _needs(job: JobPlan, unfinished: Path | None) -> list[tuple[Path, int]]:
    """(folder that exists, bytes that may yet be written to its disk) of one job."""
    out, state = _existing(job.artefact.path), _existing(job.artefact.state)
    if out.stat().st_dev == state.stat().st_dev:
        return [(out, _left(job.result_bytes + job.state_bytes, unfinished))]
    return [(out, job.result_bytes), (state, _left(job.state_bytes + job.linked_bytes, unfinished))]


def _left(planned: int, folder: Path | None) -> int:
    """`planned` less what is there. The count ends at `planned`, so it looks at no more files than a job of that plan writes."""
    left = planned
    for place, _, files in os.walk(folder) if folder is not None else ():
        for name in files:
            if left <= 0:
                return 0
            with contextlib.suppress(FileNotFoundError):  # the job may be at work
                left -= (Path(place) / name).stat().st_size
    return max(0, left)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there; links, also those whose target is yet to be made, are followed."""
    whole = folder.resolve()
    return next(place for place in (whole, *whole.parents) if place.is_dir())
