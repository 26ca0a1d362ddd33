"""Any number of images on disk, drawn in batches by any number of processes, one batch in memory.

Batches are dealt to the processes in turn, and are the same for any number of them. Each is written to `state` when it is done, so
whoever was stopped goes on at the first one that is missing. When all are there, the processes put them together as shards, and
rank 0 describes the set. Where prompts come from, and what draws, is the caller's matter.

Shapes: B batch, C channels, H W height and width in pixels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mudit.evaluate.samples import (
    Samples,
    SampleSet,
    Shard,
    images_per_shard,
    load_samples,
    save_samples,
    shard_name,
    write_set,
)
from mudit.files import link_or_copy, sha256_file, start_or_resume
from mudit.jobs.crew import Crew
from mudit.jobs.distributed import barrier, broadcast, gather
from mudit.logs import Progress, progress


class Drawer(Protocol):
    """What makes images out of numbers."""

    batch_size: int
    image_bytes: int  # of one image, uint8

    def draw(self, numbers_B: Tensor) -> Samples:
        """The images with these numbers, int64 [B]. They depend on nothing else, but for rounding on how many there are."""
        ...

    def measured(self, count: int) -> dict[str, Any]:
        """What there is to say of the drawing itself, for `sample.json`, of a set of `count` images.

        One process asks, when all images are there.
        """
        ...


class Summary(NamedTuple):
    """What was made."""

    images: int
    not_finite: int


def generate(
    out: Path,
    state: Path,
    drawer: Drawer,
    count: int,
    settings: dict[str, Any],
    texts: list[str] | None,
    crew: Crew,
    name: str = "sample",
) -> Summary:
    """Images 0 to `count` - 1 as a set (`mudit.evaluate.samples`) in the folder `out`.

    settings: for `sample.json`, everything that the images depend on; `state` of other settings is not used. texts: what each image
    asks for, None for labels. name: beside the progress bar. Called by all processes together; whoever is asked to stop finishes
    its batch, and all raise Interrupted. `state` is kept, for a caller that is not done yet: its shards share their disk space with
    `out`.
    """
    plan = _Plan(state, count, drawer.batch_size, images_per_shard(drawer.batch_size, drawer.image_bytes))
    if crew.world.main:
        out.mkdir(parents=True, exist_ok=True)
        start_or_resume(state, {**settings, "images": count, "batch_size": drawer.batch_size})
    barrier()
    mine = plan.batches[crew.world.rank :: crew.world.size]
    with progress(sum(map(len, mine)), name) as bar:
        finished = _draw(plan, mine, drawer, crew, bar)
        crew.meet(unfinished=not finished, waiting=lambda: None)
    shards = {number: plan.assemble(number) for number in plan.shards[crew.world.rank :: crew.world.size]}
    made = {number: shard for part in gather(shards) for number, shard in part.items()}
    if crew.world.main:
        for number in plan.shards:
            link_or_copy(plan.shard_file(number), out / shard_name(number))
        write_set(out, [made[number] for number in plan.shards], {**settings, "images": count, **drawer.measured(count)}, texts)
    return broadcast(Summary(count, _not_finite(out)) if crew.world.main else Summary(0, 0))


def _draw(plan: _Plan, mine: list[range], drawer: Drawer, crew: Crew, bar: Progress) -> bool:
    """The batches that are missing. Returns whether all are there; they are not if the crew was asked to stop."""
    for batch in mine:
        if not plan.done(batch):
            if crew.asked:
                return False
            started = time.monotonic()
            save_samples(plan.batch_file(batch), [drawer.draw(torch.arange(batch.start, batch.stop))])
            crew.takes(time.monotonic() - started)
        bar.advance(len(batch))
    return True


@dataclass(frozen=True)
class _Plan:
    """Which batches and shards there are, and where."""

    state: Path
    count: int
    batch_size: int
    per_shard: int

    @property
    def shards(self) -> range:
        return range(-(-self.count // self.per_shard))

    @property
    def batches(self) -> list[range]:
        """Places of the images of each."""
        return [
            range(first, min(first + self.batch_size, self.count)) for first in range(0, self.count, self.batch_size)
        ]  # a shard holds whole ones

    def batch_file(self, batch: range) -> Path:
        return self.state / f"images-{batch.start:08d}.safetensors"

    def shard_file(self, number: int) -> Path:
        return self.state / shard_name(number)

    def done(self, batch: range) -> bool:
        return self.batch_file(batch).is_file() or self.shard_file(batch.start // self.per_shard).is_file()

    def assemble(self, number: int) -> Shard:
        """Put a shard's batches into one file, unless that was done before."""
        file = self.shard_file(number)
        batches = [batch for batch in self.batches if batch.start // self.per_shard == number]
        if not file.is_file():
            save_samples(file, [load_samples(self.batch_file(batch)) for batch in batches])
        for batch in batches:
            self.batch_file(batch).unlink(missing_ok=True)
        return Shard(file.name, sum(map(len, batches)), sha256_file(file))


def _not_finite(folder: Path) -> int:
    return int((~SampleSet(folder).finite_N).sum())
