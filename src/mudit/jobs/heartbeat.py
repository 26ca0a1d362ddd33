"""What a running job says of itself to `mudit status`: `progress.json` in its state folder. Imports no torch.

The file is replaced in one rename, at most every ten seconds and whenever the job's `state` changes. It is for people who watch: no
result depends on it, so a file that cannot be written is a warning.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

from mudit.files import write_text
from mudit.jobs.distributed import World

FILE = "progress.json"
_EVERY_S = 10.0

log = logging.getLogger(__name__)


class Heartbeat:
    """One job's account of its progress. With several processes, rank 0 writes; the others' calls do nothing."""

    def __init__(self, folder: Path, **facts: Any) -> None:
        """`facts`: what does not change, for example artefact="dit-digits/train/mup_s0", steps=640. Any JSON values."""
        self._path = folder / FILE
        self._values: dict[str, Any] = {**facts, "processes": World.of_environment().size, "started": time.time()}
        self._written = -math.inf  # time.monotonic() of the newest file
        self._state: object = None
        self._writes = World.of_environment().main

    @property
    def due(self) -> bool:
        """Whether a call of `update` would write: what is dear to compute may wait for it."""
        return self._writes and time.monotonic() - self._written >= _EVERY_S

    def update(self, **columns: Any) -> None:
        """Remember JSON values by name, and write the file if it is time. A new value of `state` is written at once.

        `state`: running, interrupted, finished or diverged. A number that is not finite is written as null.
        """
        self._values |= columns
        if self.due or (self._writes and self._values.get("state") != self._state):
            self._write()

    def _write(self) -> None:
        self._written, self._state = time.monotonic(), self._values.get("state")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(_finite({**self._values, "time": time.time()})) + "\n", durable=False)
        except OSError as error:
            log.warning("%s cannot be written (%s): `mudit status` shows an older state", self._path, error.strerror)


def _finite(value: Any) -> Any:
    """The same JSON value without infinities and NaN, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value
