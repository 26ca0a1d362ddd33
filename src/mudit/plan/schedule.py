"""When a study would be finished: its jobs in the order of the workflow, on so many processors. Imports no torch.

A list schedule: whenever processors are free, the dearest job that is ready and fits starts, as in the workflow. Processors are one
pool; how jobs lie on machines is not looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One job: how many processors for how long, and what must be finished before."""

    processors: int
    hours: float
    after: tuple[str, ...] = ()


def makespan(tasks: Mapping[str, Task], processors: int) -> float:
    """Hours until all tasks are done. A task may hold all `processors`, not more; tasks without any wait for their inputs only."""
    missing = {name: {each for each in task.after if each in tasks} for name, task in tasks.items()}
    followers: dict[str, list[str]] = {name: [] for name in tasks}
    for name, before in missing.items():
        for each in before:
            followers[each].append(name)
    ready = [name for name, before in missing.items() if not before]
    running: list[tuple[float, str]] = []
    free, now = processors, 0.0
    while ready or running:
        ready.sort(key=lambda name: (-tasks[name].processors * tasks[name].hours, name))
        for name in list(ready):
            assert tasks[name].processors <= processors, f"{name} asks for more processors than there are"
            if tasks[name].processors <= free:
                free -= tasks[name].processors
                heapq.heappush(running, (now + tasks[name].hours, name))
                ready.remove(name)
        now, done = heapq.heappop(running)
        free += tasks[done].processors
        for name in followers[done]:
            missing[name].discard(done)
            if not missing[name]:
                ready.append(name)
    return now
