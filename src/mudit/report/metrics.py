"""The ledger's numbers and the targets' curves for tools that compare revisions: `dvc metrics diff`, `dvc plots diff`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence

from mudit.report.evidence import TargetRun
from mudit.report.ledger.row import Row

METRICS_FILE = "metrics.json"
CURVES_FILE = "curves.csv"
_COLUMNS = ("run", "step", "images", "mse", "ema_mse")


def metrics(rows: Sequence[Row]) -> str:
    """JSON: name of each row that has a number -> that number and, where it has one, its interval."""
    values = {
        row.name: {"value": row.value} | ({} if row.interval is None else {"low": row.interval[0], "high": row.interval[1]})
        for row in rows
        if row.value is not None and math.isfinite(row.value)
    }
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def curves(runs: Sequence[TargetRun]) -> str:
    """CSV: a line per run and validation, in the order of the runs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for run in runs:
        writer.writerows([run.target.name, *(record[name] for name in _COLUMNS[1:])] for record in run.history)
    return text.getvalue()
