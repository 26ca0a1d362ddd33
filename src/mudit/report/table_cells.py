"""What the paper's tables, and ours beside them, are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mudit.report import text
from mudit.report.evidence import Record
from mudit.report.ledger.row import student

UNKNOWN, DIVERGED = "not known", "×"


@dataclass(frozen=True)
class Cell:
    """A figure, what stands below it in small type, and whether it is the best of its row."""

    value: str
    beside: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """`head` has the first column's title, too. `rows`: label and the other cells."""

    title: str
    note: str
    head: list[str]
    rows: list[tuple[str, list[Cell]]]


def mean_cell(values: Sequence[float], confidence: float, *, best: bool = False) -> Cell:
    """The mean over seeds with its interval; a dash of none."""
    if not values:
        return Cell("–")
    found = student(values, confidence)
    return Cell(text.significant(sum(values) / len(values), 4), "one seed" if found is None else bounds(found), best)


def records_cell(records: Sequence[Record], confidence: float, *, best: bool = False) -> Cell:
    """The same of metric records, one per seed. A single one has the interval over its images."""
    values = values_of(records)
    if len(values) == 1:
        (record,) = (record for record in records if record["value"] is not None)
        return Cell(text.significant(values[0], 4), bounds(record.get("interval")), best)
    return mean_cell(values, confidence, best=best)


def values_of(records: Sequence[Record]) -> list[float]:
    """The figures of the records that have one."""
    return [record["value"] for record in records if record["value"] is not None]


def bounds(interval: Sequence[float] | None) -> str:
    """An interval with four digits; nothing where there is none."""
    return "" if interval is None else f"[{text.significant(interval[0], 4)}, {text.significant(interval[1], 4)}]"


def needs(hours: float, unit: str = "") -> str:
    """What a figure that nobody made here would take, in hours of an A100 with 80 GB."""
    return f"not run: needs {hours:,.0f} A100-hours {unit}".rstrip()
