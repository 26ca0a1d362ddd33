"""Snapshots of a run: the average of its weights as it was after given steps (`train.snapshots`), for a table of convergence.

A finished run holds them in `snapshots/step-0000400000/`, with the files of its last average, so each is read like a run. While the
run goes on they lie in its state. A checkpoint names those that were taken before it, with checksums: whoever resumes keeps these
and takes the others again, which on the same number of processes are the same bits.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from mudit.errors import CheckpointError, ResultsError
from mudit.files import link_or_copy, sha256_file, sync
from mudit.jobs.distributed import World, barrier, broadcast
from mudit.train.weights import save_average, save_description

FOLDER = "snapshots"

Taken = dict[str, dict[str, str]]
"""Name of a snapshot -> its files -> their SHA-256."""


def snapshots(run: Path) -> dict[int, Path]:
    """Step -> folder, rising, of a finished run."""
    folders = sorted((run / FOLDER).glob("step-*"))
    return {int(folder.name.removeprefix("step-")): folder for folder in folders}


class Snapshots:
    """Those of an unfinished run. Every method is for all processes together."""

    def __init__(self, folder: Path, steps: Collection[int], world: World) -> None:
        """`folder`: of the run's state."""
        self.steps = frozenset(steps)
        self.taken: Taken = {}
        self._folder, self._world = folder, world

    def take(self, step: int, average: nn.Module) -> None:
        """Write one. Raises ResultsError, on every process, if the disk refuses: what is lost here cannot be had later."""
        name = f"step-{step:010d}"
        partial = self._folder / f".{name}.partial"
        if self._world.main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        barrier()
        try:
            save_average(partial, average)
        except OSError as error:
            reason = str(error) if error.errno is None else os.strerror(error.errno)
            raise ResultsError(
                f"cannot write the snapshot of step {step} in {self._folder}: {reason}; make room and start the run again"
            ) from error
        files: dict[str, str] = {}
        if self._world.main:
            for file in sorted(partial.iterdir()):
                sync(file)
                files[file.name] = sha256_file(file)
            shutil.rmtree(self._folder / name, ignore_errors=True)
            os.replace(partial, self._folder / name)
            sync(self._folder)
        self.taken[name] = broadcast(files)

    def resume(self, taken: Taken) -> None:
        """Go on from a checkpoint that names these; {} from the start. Raises CheckpointError, everywhere, if one is damaged."""
        self.taken = dict(taken)
        damage = broadcast(self._keep_only() if self._world.main else None)
        if damage is not None:
            raise CheckpointError(f"{damage}; remove {self._folder.parent} to start this run afresh")

    def put(self, run: Path, description: dict[str, Any]) -> None:
        """Into the folder of the finished run, by rank 0 alone. They share their disk space with the state."""
        for name, files in self.taken.items():
            folder = run / FOLDER / name
            folder.mkdir(parents=True)
            for file in files:
                link_or_copy(self._folder / name / file, folder / file)
            save_description(folder, description)

    def _keep_only(self) -> str | None:
        """Drop what is newer than the checkpoint. Returns what is wrong with the others."""
        for folder in self._folder.glob("*"):
            if folder.name not in self.taken:
                shutil.rmtree(folder)
        for name, files in self.taken.items():
            for file, checksum in files.items():
                path = self._folder / name / file
                if not path.is_file() or sha256_file(path) != checksum:
                    return f"{path}: the snapshot is missing or differs from its checksum"
        return None
