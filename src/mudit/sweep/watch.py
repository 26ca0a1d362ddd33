"""How a sweep or search says how far it is: log lines or a bar, and `progress.json` for `mudit status`. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mudit.jobs.heartbeat import Heartbeat
from mudit.jobs.interrupt import Interrupted
from mudit.logs import Progress, progress


class Watch:
    """Counts trial steps: optimizer steps of one trial each. With several processes, each counts its own and rank 0's are shown."""

    def __init__(self, bar: Progress, heartbeat: Heartbeat) -> None:
        self._bar, self._heartbeat = bar, heartbeat
        self._done, self._total = 0, 0

    def expect(self, trial_steps: int) -> None:
        """More to do than was known; less, if negative."""
        self._total += trial_steps
        self._bar.extend(trial_steps)

    def advance(self, trial_steps: int, **columns: float) -> None:
        """Done so much more, with figures of this moment such as the loss."""
        self._done += trial_steps
        self._bar.advance(trial_steps, **columns)
        self._heartbeat.update(step=self._done, steps=self._total, per_second=self._bar.per_second, **columns)

    def waiting(self) -> None:
        """Nothing to do until another process is done: still a sign of life."""
        self._heartbeat.update()

    def finished(self, trials: int) -> None:
        """So many trials have a record, of any process."""
        self._heartbeat.update(trials=trials)


@contextlib.contextmanager
def watching(artefact: str, description: str, state: Path) -> Iterator[Watch]:
    """Around the trials of an artefact (`dit-digits/sweep/mup_w32_b64`) whose state folder is `state`."""
    heartbeat = Heartbeat(state, artefact=artefact, unit="trial steps")
    with progress(0, description) as bar:
        heartbeat.update(state="running")
        try:
            yield Watch(bar, heartbeat)
        except Interrupted:
            heartbeat.update(state="interrupted")
            raise
        heartbeat.update(state="finished")
