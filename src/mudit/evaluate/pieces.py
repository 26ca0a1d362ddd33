"""Work on images that processes share and that survives kills: every piece is one file, made by one process, and kept.

What a piece holds depends on neither the number of processes nor on which of them made it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from mudit.data.tensors import save_tensors
from mudit.files import start_or_resume
from mudit.jobs.crew import Crew
from mudit.jobs.distributed import barrier
from mudit.logs import progress


class Piece(NamedTuple):
    """One file to make."""

    name: str
    images: int  # how much work it is
    make: Callable[[], dict[str, Tensor]]


class Pieces:
    """Finished pieces in a folder, which all processes see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, plan: dict[str, Any], crew: Crew) -> None:
        """Keep what is there only if it was made under the same plan (JSON values). Called by all processes together."""
        if crew.world.main:
            start_or_resume(self._folder, plan)
        barrier()

    def make(self, pieces: Sequence[Piece], crew: Crew, what: str) -> None:
        """Make those that are missing, each process its share. Called by all together; returns when all pieces are there.

        Raises Interrupted in all processes if one of them was asked to stop before its share was done.
        """
        mine, finished = pieces[crew.world.rank :: crew.world.size], True
        with progress(sum(piece.images for piece in mine), what, unit="images") as bar:
            for piece in mine:
                if not self.path(piece.name).is_file():
                    if crew.asked:
                        finished = False
                        break
                    started = time.monotonic()
                    save_tensors(piece.make(), self.path(piece.name))
                    crew.takes(time.monotonic() - started)
                bar.advance(piece.images)
            crew.meet(unfinished=not finished, waiting=lambda: None)

    def load(self, name: str) -> dict[str, Tensor]:
        """The tensors of a finished piece."""
        return load_file(self.path(name))

    def path(self, name: str) -> Path:
        """Where a piece lies, or will."""
        return self._folder / f"{name}.safetensors"
