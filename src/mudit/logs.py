"""Logging set-up and progress: plain lines with a level in logs, a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from mudit.jobs.distributed import World

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LOG = logging.getLogger("mudit")
_LINE_EVERY_S = 10.0


def setup(level: int = logging.INFO) -> None:
    """Send the log of mudit (from `level`) and of libraries (warnings) to stderr, one line each.

    Where a job has several processes, rank 0 speaks for all: the others log warnings only.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING, force=True)
    _LOG.setLevel(level if World.of_environment().main else max(level, logging.WARNING))


class Progress(Protocol):
    """What `progress` yields."""

    def advance(self, count: int = 1, **columns: float | str) -> None:
        """Add finished units. `columns` are shown beside the bar, for example `loss=0.13, mfu=0.61`; each keeps its last value."""

    @property
    def per_second(self) -> float:
        """Units per second so far, without those that were finished before."""

    def extend(self, count: int) -> None:
        """Raise the total by `count` units, for work whose size shows as it goes."""


@contextlib.contextmanager
def progress(total: int, description: str, *, unit: str = "it", done: int = 0) -> Iterator[Progress]:
    """Progress over `total` units of which `done` were finished before: rate, time left and the caller's columns.

    On a terminal a bar; elsewhere a log line every ten seconds and one at the end.
    """
    if not sys.stderr.isatty() or not World.of_environment().main:
        lines = _Lines(total, description, unit, done)
        yield lines
        lines.close()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(description, total=total, completed=done, shown=""), unit)


class _Rate:
    """Units per second since the start, without those that were finished before."""

    def __init__(self, unit: str) -> None:
        self.unit, self.start, self.count = unit, time.monotonic(), 0

    def add(self, count: int) -> None:
        self.count += count

    @property
    def per_second(self) -> float:
        return self.count / max(time.monotonic() - self.start, 1e-9)

    def __str__(self) -> str:
        return f"{self.per_second:.3g} {self.unit}/s"


class _Bar:
    def __init__(self, bar: RichProgress, task: TaskID, unit: str) -> None:
        self._bar, self._task, self._rate = bar, task, _Rate(unit)
        self._columns: dict[str, float | str] = {}

    def advance(self, count: int = 1, **columns: float | str) -> None:
        self._rate.add(count)
        self._columns |= columns
        self._bar.update(self._task, advance=count, shown=_text(self._rate, self._columns))

    @property
    def per_second(self) -> float:
        return self._rate.per_second

    def extend(self, count: int) -> None:
        self._bar.update(self._task, total=(self._bar.tasks[self._task].total or 0) + count)


class _Lines:
    def __init__(self, total: int, description: str, unit: str, done: int) -> None:
        self._total, self._description, self._done, self._rate = total, description, done, _Rate(unit)
        self._columns: dict[str, float | str] = {}
        self._last = self._rate.start
        self._shown = -1

    def advance(self, count: int = 1, **columns: float | str) -> None:
        self._done += count
        self._rate.add(count)
        self._columns |= columns
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._line()

    @property
    def per_second(self) -> float:
        return self._rate.per_second

    def extend(self, count: int) -> None:
        self._total += count

    def close(self) -> None:
        if self._shown != self._done:
            self._line()

    def _line(self) -> None:
        self._last, self._shown = time.monotonic(), self._done
        left_s = (self._total - self._done) / max(self._rate.per_second, 1e-9)
        left = f", {left_s:.0f} s left" if 0 < left_s < 1e6 else ""
        _LOG.info("%s: %d/%d, %s%s", self._description, self._done, self._total, _text(self._rate, self._columns), left)


def _text(rate: _Rate, columns: dict[str, float | str]) -> str:
    values = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in columns.items())
    return ", ".join([str(rate), *values])
