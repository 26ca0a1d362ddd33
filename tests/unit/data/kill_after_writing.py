"""Makes the artefact `data` of this folder's configuration, for the test of kills between its last shard and its place.

Usage: python kill_after_writing.py RECORD. Each attempt is a process of its own: it appends to RECORD what it killed itself at, and
how many images it read before that. The last one is not killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mudit.config.load import load
from mudit.data import stage, writer
from mudit.data.sources import SklearnDigits
from mudit.provenance import execute, place, resume, source
from mudit.provenance import manifest as manifests
from mudit.stages import parse

# Where, in order, after how many calls of the same, and by what.
POINTS: list[tuple[Any, str, int, signal.Signals]] = [
    (writer, "link_or_copy", 2, signal.SIGKILL),
    (writer, "write_info", 0, signal.SIGTERM),
    (manifests, "sha256_file", 0, signal.SIGTERM),
    (manifests, "sync", 1, signal.SIGKILL),
    (manifests, "write_text", 0, signal.SIGKILL),
    (place, "sync", 0, signal.SIGKILL),
    (execute, "release", 0, signal.SIGKILL),
    (resume.shutil, "rmtree", 0, signal.SIGKILL),
]


def main() -> None:
    SklearnDigits(8), source.closure(stage.__name__), source.environment()  # what all attempts would import and look up
    for point in [*POINTS, None]:
        child = os.fork()  # no thread runs yet
        if child == 0:
            _attempt(point, Path(sys.argv[1]))
            os._exit(0)
        os.waitpid(child, 0)


def _attempt(point: tuple[Any, str, int, signal.Signals] | None, record: Path) -> None:
    images: list[int] = []
    read = SklearnDigits.read
    SklearnDigits.read = lambda self, index: (images.append(index), read(self, index))[1]  # type: ignore[method-assign]
    note = partial(_note, record, images)
    if point is not None:
        _arm(*point, note)
    execute.make(parse("smoke", "data"), load(Path("config.yaml")).experiments["smoke"], force=False)
    note("nothing")


def _arm(module: Any, name: str, calls: int, number: signal.Signals, note: Callable[[str], None]) -> None:
    true, made = getattr(module, name), []

    def deadly(*arguments: Any, **options: Any) -> Any:
        made.append(arguments)
        if len(made) > calls:
            note(name)
            os.kill(os.getpid(), number)
        return true(*arguments, **options)

    setattr(module, name, deadly)


def _note(record: Path, images: list[int], where: str) -> None:
    with record.open("a") as file:
        file.write(json.dumps([where, len(images)]) + "\n")


if __name__ == "__main__":
    main()
