"""Work dealt to the processes of a job in rounds, so that all can stop together between two of them. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mudit.jobs.distributed import World, gather
from mudit.jobs.interrupt import Interrupt, Interrupted

T = TypeVar("T")
R = TypeVar("R")


def in_rounds(items: Sequence[T], work: Callable[[T], R], interrupt: Interrupt) -> Iterator[list[R]]:
    """What became of the items, round by round and in their order, the same on every rank; rank r of R does items r, r + R, ...

    A round must end before a deadline, so it begins only if the longest one so far would. Raises Interrupted on every rank, between
    two rounds, when a rank was asked to stop.
    """
    world = World.of_environment()
    for first in range(0, len(items), world.size):
        start = time.monotonic()
        mine = [work(item) for item in items[first : first + world.size][world.rank : world.rank + 1]]
        interrupt.margin_s = max(interrupt.margin_s, time.monotonic() - start)
        reports = gather((mine, interrupt.asked))
        yield [result for results, _ in reports for result in results]
        if any(asked for _, asked in reports) and first + world.size < len(items):
            raise Interrupted
