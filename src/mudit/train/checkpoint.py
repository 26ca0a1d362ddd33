"""Checkpoints of an unfinished run: safetensors and JSON, written atomically, checked when read, by any number of processes.

A checkpoint is a folder `step-00000200/`. Each process writes the rows that it holds into one file (`tensors.safetensors`, or
`tensors-00003.safetensors` of rank 3); `state.json` is the index: identity, step, the run's own state, each file's checksum, and
for each tensor which rows lie in which file. Whoever reads takes the rows that it needs, so the number of processes may change.
The folder appears by one rename after every file is on disk: a kill leaves a whole checkpoint or none. A damaged one is skipped,
loudly, for the one before.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from mudit.data.tensors import save_tensors
from mudit.errors import CheckpointError, ResultsError
from mudit.files import sha256_file, sync
from mudit.jobs.distributed import World, barrier, broadcast, gather
from mudit.train.shards import Shard, shard_of
from mudit.train.stored import INDEX, Stored

log = logging.getLogger(__name__)

ALONE = World(rank=0, size=1, local_rank=0)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and JSON-able state, as they were after `step` optimizer steps.

    Tensors to save may be DTensors, of which each process holds some rows; tensors that were read are made whole when asked for.
    """

    step: int
    tensors: Mapping[str, Tensor]
    state: dict[str, Any]


class _Part(NamedTuple):
    """What one process wrote: its file (None: it holds nothing) and the rows of each tensor in it."""

    file: str | None
    sha256: str
    rows: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class _Writing:
    """A checkpoint on its way to the disk."""

    checkpoint: Checkpoint
    part: Future[_Part]
    started: float


class CheckpointFolder:
    """The checkpoints of one run; `identity` is written into each and must match when one is read.

    With a `world` of several processes every method is for all of them together.
    """

    def __init__(self, folder: Path, *, identity: str, keep: int, keep_every: int | None = None, world: World = ALONE) -> None:
        """keep: newest checkpoints that stay; keep_every: those at multiples of so many steps stay, too."""
        self._folder, self._identity, self._keep, self._keep_every = folder, identity, keep, keep_every
        self._world = world
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: _Writing | None = None
        self._copies: dict[str, Tensor] = {}
        self.newest: int | None = None  # step of the newest one that is known to be whole
        self.seconds = 0.0  # from the start to the end of the last save

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one, then drop what need not be kept. Raises ResultsError, on every process, if the disk refuses."""
        self._begin(checkpoint, copy=False)
        self.finish()

    def begin(self, checkpoint: Checkpoint) -> None:
        """Copy it to main memory and let a thread write it. An earlier one is finished first (see `finish` for errors).

        The memory of the copy stays for the next one: as much as this process writes, pinned if the tensors are on a GPU.
        """
        self._begin(checkpoint, copy=True)

    @property
    def written(self) -> bool:
        """Whether this process has written its part of a checkpoint that is to be finished."""
        return self._writing is not None and self._writing.part.done()

    def finish(self) -> None:
        """Wait for the checkpoint that was begun, if there is one, and put it in place.

        Raises ResultsError, on every process, if it could not be written; older checkpoints are as they were.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        outcomes: list[_Part | str] = self._gathered(_outcome(writing.part))
        failure = next((outcome for outcome in outcomes if isinstance(outcome, str)), None)
        if failure is None and self._world.main:
            failure = self._commit(writing.checkpoint, [part for part in outcomes if isinstance(part, _Part)])
        if self._world.size > 1:
            failure = broadcast(failure)
        self.seconds = time.monotonic() - writing.started
        if failure is None:
            self.newest = writing.checkpoint.step
            return
        if self._world.main:
            shutil.rmtree(self._partial(writing.checkpoint.step), ignore_errors=True)
        kept = "there is no older one" if self.newest is None else f"the newest is that of step {self.newest}"
        raise ResultsError(f"cannot write the checkpoint of step {writing.checkpoint.step} in {self._folder}: {failure}; {kept}")

    def latest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None. Raises CheckpointError if one belongs to another run.

        Its tensors are read when they are asked for; processes share the work of comparing checksums.
        """
        folders = self._saved()
        if self._world.size > 1:
            folders = broadcast(folders)
        for folder in reversed(folders):
            stored, damage = self._read(folder)
            damages = [each for each in self._gathered(damage) if each is not None]
            if stored is None or damages:
                if self._world.main:
                    log.warning("%s is damaged (%s); falling back to the checkpoint before it", folder, damages[0])
                continue
            self.newest = stored.step
            return Checkpoint(stored.step, stored, stored.state)
        return None

    def _begin(self, checkpoint: Checkpoint, copy: bool) -> None:
        self.finish()
        started = time.monotonic()
        mine = self._mine(checkpoint.tensors, copy)
        partial = self._partial(checkpoint.step)
        if self._world.main:
            shutil.rmtree(partial, ignore_errors=True)
        if self._world.size > 1:
            barrier()
        self._writing = _Writing(checkpoint, self._thread.submit(self._write, partial, mine), started)

    def _mine(self, tensors: Mapping[str, Tensor], copy: bool) -> dict[str, Shard]:
        """What this process writes. Rank 0 writes what all hold."""
        shards = {name: shard_of(tensor.detach()) for name, tensor in tensors.items()}
        return {
            name: shard._replace(local=self._copied(name, shard.local)) if copy else shard
            for name, shard in shards.items()
            if shard.rows and (self._world.main or not shard.whole)
        }

    def _copied(self, name: str, local: Tensor) -> Tensor:
        """A copy in main memory, in the place of the last one of this name: fresh memory costs several times the copying."""
        copies = self._copies
        if name not in copies or (copies[name].shape, copies[name].dtype) != (local.shape, local.dtype):
            copies[name] = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
        return copies[name].copy_(local)

    def _write(self, partial: Path, mine: dict[str, Shard]) -> _Part:
        partial.mkdir(parents=True, exist_ok=True)
        rows = {name: (shard.first, shard.first + shard.rows) for name, shard in mine.items()}
        if not mine:
            return _Part(None, "", rows)
        file = "tensors.safetensors" if self._world.size == 1 else f"tensors-{self._world.rank:05d}.safetensors"
        save_tensors({name: shard.local.contiguous() for name, shard in mine.items()}, partial / file)
        sync(partial / file)
        return _Part(file, sha256_file(partial / file), rows)

    def _commit(self, checkpoint: Checkpoint, parts: list[_Part]) -> str | None:
        """Write the index and rename. Returns what went wrong."""
        final, partial = self._folder / f"step-{checkpoint.step:08d}", self._partial(checkpoint.step)
        parts = [part for part in parts if part.file is not None]
        tensors = {}
        for name, tensor in checkpoint.tensors.items():
            pieces = [[number, *part.rows[name]] for number, part in enumerate(parts) if name in part.rows]
            tensors[name] = {"shape": list(tensor.shape), "pieces": pieces}
        index = {
            "identity": self._identity,
            "step": checkpoint.step,
            "files": [{"file": part.file, "sha256": part.sha256} for part in parts],
            "tensors": tensors,
            "state": checkpoint.state,
        }
        try:
            (partial / INDEX).write_text(json.dumps(index), encoding="utf-8")
            sync(partial / INDEX)
            sync(partial)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
            sync(self._folder)
            self._drop(upto=checkpoint.step)
        except OSError as error:
            return _reason(error)
        return None

    def _drop(self, upto: int) -> None:
        """What need not be kept. Those of later steps count for nothing: they were damaged, and the run is not there again yet."""
        steps = {folder: int(folder.name.removeprefix("step-")) for folder in self._saved()}
        for folder in [folder for folder, step in steps.items() if step <= upto][: -self._keep]:
            if self._keep_every is None or steps[folder] % self._keep_every:
                shutil.rmtree(folder)

    def _read(self, folder: Path) -> tuple[Stored | None, str | None]:
        """The checkpoint, and what this process found wrong with it: it checks some of the files."""
        try:
            stored = Stored.open(folder)
            if stored.identity != self._identity:
                raise CheckpointError(f"{folder} belongs to another run; remove its folder {self._folder} to start this run afresh")
            stored.check(self._world.rank, self._world.size)
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            return None, str(error)
        return stored, None

    def _gathered(self, value: Any) -> list[Any]:
        return gather(value) if self._world.size > 1 else [value]

    def _partial(self, step: int) -> Path:
        return self._folder / f".step-{step:08d}.partial"

    def _saved(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))


def _outcome(part: Future[_Part]) -> _Part | str:
    """What the thread wrote, or why the disk refused."""
    try:
        return part.result()
    except OSError as error:
        return _reason(error)


def _reason(error: OSError) -> str:
    return str(error) if error.errno is None else os.strerror(error.errno)
