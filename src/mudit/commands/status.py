"""`mudit status`: what runs, what waits, and alarms."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from mudit.commands.options import DEFAULT_CONFIG, AsJson, ConfigPath, Selection
from mudit.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Group

    from mudit.jobs.status import Row, Status

_EVERY_S = 5.0


def status(
    selection: Selection = "",
    watch: Annotated[bool, typer.Option("--watch", help="Again every five seconds, until all is done.")] = False,
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Show what runs, what waits, and alarms. Exit code 1 if there is an alarm."""
    from mudit.config.load import load
    from mudit.jobs.status import status as status_of

    if watch and as_json:
        raise ConfigError("status: --watch is for people, --json for programs; choose one")
    loaded = load(config)
    now = status_of(loaded, selection or None)
    if watch:
        now = _watch(lambda: status_of(loaded, selection or None), now)
    elif as_json:
        rows = [{**dataclasses.asdict(row), "seconds_left": row.seconds_left} for row in now.rows]
        print(json.dumps({"done": now.done, "total": now.total, "alarms": now.alarms, "artefacts": rows}, indent=1))
    else:
        _print(now)
    if now.alarms:
        raise typer.Exit(1)


def _print(now: Status) -> None:
    """A table on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        for line in _lines(now):
            print(line)
        return
    from rich.console import Console

    Console().print(_table(now))


def _watch(read: Callable[[], Status], now: Status) -> Status:
    """Show it again and again, until all is done or Ctrl-C. Returns what was shown last."""
    if not sys.stdout.isatty():
        _print(now)
        while now.done < now.total:
            time.sleep(_EVERY_S)
            now = read()
            print(flush=True)
            _print(now)
        return now
    from rich.live import Live

    try:
        with Live(_table(now), auto_refresh=False) as live:
            while now.done < now.total:
                time.sleep(_EVERY_S)
                now = read()
                live.update(_table(now), refresh=True)
    except KeyboardInterrupt:
        pass
    return now


def _lines(now: Status) -> Iterator[str]:
    active = [row for row in now.rows if row.state != "waiting"]
    width = max((len(row.artefact) for row in active), default=0)
    for row in active:
        yield f"{row.state:12}{row.artefact:{width}}  {'  '.join(filter(None, _figures(row)))}".rstrip()
        yield from (f"{'':12}alarm: {alarm}" for alarm in row.alarms)
    yield from _waiting(now)
    yield _summary(now)


def _table(now: Status) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("artefact", "state", "done", "loss", "rate", "left")
    for row in now.rows:
        if row.state != "waiting":
            colour = "red" if row.alarms else "yellow" if row.state == "interrupted" else "green"
            table.add_row(row.artefact, Text(row.state, colour), *_figures(row))
    alarms = [Text(f"{row.artefact}: {alarm}", "red") for row in now.rows for alarm in row.alarms]
    return Group(table, *alarms, *_waiting(now), _summary(now))


def _figures(row: Row) -> list[str]:
    """Steps, loss, rate and time left, each empty where it is not known."""
    from mudit.jobs.status import duration

    known = row.step is not None and row.steps is not None
    left = row.seconds_left
    return [
        f"{row.step:.0f}/{row.steps:.0f} {row.unit}" if known else "",
        "" if row.loss is None else f"loss {row.loss:.4g}",
        "" if row.per_second is None or row.state != "running" else f"{row.per_second:.3g}/s",
        row.note if left is None else f"{duration(left)} left",
    ]


def _waiting(now: Status) -> Iterator[str]:
    """One line per experiment and stage."""
    counts: dict[str, int] = {}
    for row in now.rows:
        if row.state == "waiting":
            stage = "/".join(row.artefact.split("/")[:2])
            counts[stage] = counts.get(stage, 0) + 1
    for stage, count in counts.items():
        yield f"{'waiting':12}{stage}" + (f" x{count}" if count > 1 else "")


def _summary(now: Status) -> str:
    alarms = f"; {now.alarms} with an alarm" if now.alarms else ""
    return f"{now.done} of {now.total} artefacts are done{alarms}"
