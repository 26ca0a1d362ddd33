"""The processes of one job that work alone between two meetings, and all stop together. Imports no torch.

There may be days between two meetings, so nobody blocks in a collective operation, whose time limit is an hour: who is done looks
at shared counters. A process that was asked to stop (`mudit.jobs.interrupt`) tells the others through them, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mudit.jobs.distributed import World, count, gather
from mudit.jobs.interrupt import Interrupt, Interrupted

_LOOK_S = 1.0  # between two looks at the counters


class Crew:
    """This process among them."""

    def __init__(self, interrupt: Interrupt) -> None:
        self.world = World.of_environment()
        self._interrupt, self._meetings = interrupt, 0
        self._stop, self._looked = False, 0.0

    @property
    def asked(self) -> bool:
        """Whether this process, or (within a second) another one, was asked to stop."""
        if self.world.size == 1:
            return self._interrupt.asked
        if not self._stop and self._interrupt.asked:
            self._stop = True
            count("stop", by=1)
        elif not self._stop and time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._stop = count("stop") > 0
        return self._stop

    def takes(self, seconds: float) -> None:
        """So long this process may work between two looks at `asked`: it stops that much ahead of a deadline."""
        self._interrupt.margin_s = max(self._interrupt.margin_s, seconds)

    def meet(self, *, unfinished: bool, waiting: Callable[[], object]) -> None:
        """Returns when every process has come. Raises Interrupted in all of them if one left work `unfinished`.

        Calls `waiting` now and then until they have.
        """
        if self.world.size > 1:
            self._meetings += 1
            arrived = f"meeting {self._meetings}"
            present = count(arrived, by=1)
            while present < self.world.size:
                time.sleep(_LOOK_S / 5)
                present = count(arrived)
                _ = self.asked  # one that waits tells the others that it was asked to stop
                waiting()
        if any(gather(unfinished)):
            raise Interrupted
