"""Stopping in good order: signals and a time limit ask a run to write its state and leave; the same command goes on from there.

SIGTERM is what Slurm, Kubernetes and `kill` send, SIGUSR1 what Slurm sends ahead of a time limit (`--signal`). The limit of a job
is told to its processes by MUDIT_DEADLINE, in seconds since 1970: a run stops there by itself, so that no queue has to kill it.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Self

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
DEADLINE = "MUDIT_DEADLINE"
_CAUGHT = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(SystemExit):
    """A run stopped because it was asked to; its state is on disk. Exit code 75 (try again later)."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class Interrupt:
    """While active, remembers whether this process was asked to stop. Signals have their former handlers afterwards.

    A process that leaves by Interrupted goes on ignoring them: of several, the first to leave has the others terminated, and a
    signal then must not change their exit code.
    """

    def __init__(self) -> None:
        limit = os.environ.get(DEADLINE)
        self._deadline = float(limit) if limit else None
        self._signalled = False
        self.margin_s = 0.0  # seconds that writing the state takes: the run stops so much before the deadline

    @property
    def asked(self) -> bool:
        """Whether to stop at the next good place. Ranks may differ: let them agree before one of them stops."""
        return self._signalled or (self._deadline is not None and time.time() + self.margin_s >= self._deadline)

    def __enter__(self) -> Self:
        self._former = [signal.signal(number, self._remember) for number in _CAUGHT]
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for number, former in zip(_CAUGHT, self._former, strict=True):
            # While the interpreter shuts down it puts its own handlers back to the default, but leaves what is ignored.
            signal.signal(number, signal.SIG_IGN if kind is Interrupted else former)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._signalled = True
