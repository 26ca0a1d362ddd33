"""One rank of a preparation, for the tests of several: python rank_of_store.py SECTION.json OUT STATE [KILL_AT]

With KILL_AT rank 0 of the job kills itself without warning when it has begun to read so many images.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from mudit.config.data import DataSection
from mudit.data import sources
from mudit.data.encoders import open_encoder
from mudit.data.writer import StoreWriter
from mudit.jobs.distributed import joined


def main() -> None:
    section, out, state, *kill_at = sys.argv[1:]
    data = DataSection.model_validate(json.loads(Path(section).read_text()))
    with joined() as world:
        source = sources.open_source(data)
        if kill_at and world.main:
            _kill_after(source, int(kill_at[0]))
        StoreWriter(data, source, open_encoder(data), Path(out), Path(state), batch=3).write(lambda images: None)


def _kill_after(source: sources.Source, images: int) -> None:
    read, begun = source.read, []

    def counted(index: int) -> object:
        begun.append(index)
        if len(begun) > images:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(index)

    source.read = counted  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
