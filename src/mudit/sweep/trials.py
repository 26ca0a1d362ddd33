"""Run trials of one shape in packs, on all processes of the job: the engine of sweeps and random search.

Trials do not meet, so processes exchange records and nothing else, and what is recorded does not depend on how many there are
(beyond rounding on GPUs, where packs of other sizes round differently).
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mudit.config.cluster import TrialWorkers
from mudit.jobs.crew import Crew
from mudit.jobs.distributed import gather
from mudit.jobs.interrupt import Interrupt
from mudit.sweep.packs import Pack, Packs
from mudit.sweep.records import RunRecord
from mudit.sweep.running import NewGroup, PackRun
from mudit.sweep.watch import Watch
from mudit.train.group import Member, TrialGroup, measure_group_size
from mudit.train.validation import ValidationSet

if TYPE_CHECKING:
    from mudit.stages import Job

log = logging.getLogger(__name__)

SAVE_EVERY_S = 600.0  # what a kill may cost; shorter packs than this are not worth a file
_LARGEST_PACK = 16  # the gain from packing is had early (docs/benchmarks.md)
_FULL = (errno.ENOSPC, errno.EDQUOT)

PackRecords = list[tuple[Member, RunRecord]]


def micro_batch_of(job: Job) -> int | None:
    """Images of one trial per forward pass, where the execution of the stage says so."""
    return job.workers.micro_batch if isinstance(job.workers, TrialWorkers) else None


class PackedRuns:
    """Runs members of one shape to the last of `horizons` (optimizer steps), in packs of the size that is fastest here.

    The size is measured before the first pack, is kept with the unfinished packs in `state`, and changes no number.
    """

    def __init__(
        self,
        name: str,
        new_group: NewGroup,
        validation: ValidationSet,
        horizons: Sequence[int],
        divergence_factor: float,
        *,
        state: Path,
        interrupt: Interrupt,
        watch: Watch,
    ) -> None:
        self._name, self._new_group, self._validation = name, new_group, validation
        self._horizons, self._divergence_factor = horizons, divergence_factor
        self._interrupt, self._crew = interrupt, Crew(interrupt)
        self._watch, self._packs = watch, Packs(state / "packs")
        self.size, self.seconds = self._packs.measured or (0, {})  # trials at once, 0: not measured; seconds per trial and step

    def run(self, members: Sequence[Member], finished: Callable[[PackRecords], None]) -> None:
        """Run every member once. Called by all processes with the same members; returns when all have run their share.

        `finished` gets the records of each pack of this process, when it is finished, and must put them on disk. Raises Interrupted
        in all processes if one was asked to stop; packs that had begun then have a checkpoint.
        """
        wanted = list(dict.fromkeys(members))
        if not wanted:
            return
        if not self.size:
            self._measure(wanted)
        world, unfinished = self._crew.world, False
        mine = self._packs.deal(wanted, self.size, world.size)[world.rank]
        self._watch.expect(self._horizons[-1] * sum(len(pack.members) for pack in mine))
        for pack in mine:
            records = None if self._crew.asked else self._train(pack)
            if records is None:
                unfinished = True
                break
            pairs = zip(pack.members, records, strict=True)
            finished([(member, record) for member, record in pairs if member in wanted])
            pack.forget()
        self._crew.meet(unfinished=unfinished, waiting=self._watch.waiting)

    def close(self) -> None:
        """Drop what was kept for a restart. For rank 0, when all is done."""
        self._packs.clear()

    def _measure(self, members: Sequence[Member]) -> None:
        """All processes measure, under the load that they are to each other, and take what fits in each."""

        def rehearse(group: TrialGroup) -> None:
            self._validation.losses(group.model, trials=len(group.members))

        share = -(-len(members) // self._crew.world.size)
        size, self.seconds = measure_group_size(self._new_group, members[: min(share, _LARGEST_PACK)], rehearse=rehearse)
        self.size = min(gather(size))
        if self._crew.world.main:
            self._packs.remember(self.size, self.seconds)
        if self.seconds:
            timings = ", ".join(f"{size}: {seconds * 1e3:.1f}" for size, seconds in self.seconds.items())
            log.info("%s: %d trials at once is fastest: %s ms per trial and step", self._name, self.size, timings)
        else:
            log.info("%s: this model has no packed form, so trials run one after another", self._name)

    def _train(self, pack: Pack) -> list[RunRecord] | None:
        """To the end, from the pack's newest checkpoint; None if asked to stop before that."""
        run = PackRun(self._new_group, pack.members, pack.latest())
        if run.step:
            log.info("%s: %d trials go on from step %d", self._name, len(pack.members), run.step)
            self._watch.expect(run.remaining(self._horizons[-1]) - len(pack.members) * self._horizons[-1])
        saved = time.monotonic()
        for _ in run.steps(self._validation, self._horizons, self._divergence_factor, self._watch.advance):
            if self._crew.asked:
                self._save(pack, run)
                return None
            if time.monotonic() - saved >= SAVE_EVERY_S:
                self._save(pack, run)
                saved = time.monotonic()
        return run.records()

    def _save(self, pack: Pack, run: PackRun) -> None:
        """A full disk costs the steps since the checkpoint before this one, not the run."""
        start = time.monotonic()
        try:
            pack.save(run.checkpoint())
        except OSError as error:
            if error.errno not in _FULL:
                raise
            log.warning("%s: no checkpoint at step %d, the disk is full; the one before, if any, is kept", self._name, run.step)
        else:
            self._interrupt.margin_s = time.monotonic() - start
            log.info("%s: checkpoint of %d trials at step %d", self._name, len(pack.members), run.step)
