"""`mudit params`: the table of an experiment's model at a width, as JSON or as a page to read."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from mudit.config.schema import Experiment
from mudit.parametrization.table import ParameterTable, table_for

_LEGIBLE = 116  # columns that the widest row needs


def run(experiment: Experiment, width: int, scheme: str) -> ParameterTable:
    """The table of the experiment's model at `width` under `scheme`."""
    return table_for(experiment.model, width, scheme)


def print_table(table: ParameterTable, as_json: bool) -> None:
    """Print to stdout: {"parameters": [...]} as JSON, or a table with equal blocks folded into one row."""
    if as_json:
        print(json.dumps(table.to_dict(), indent=2))
        return
    page = Table(title=f"{table.scheme} at width {table.width} (base {table.base_width}): {table.total / 1e6:.2f}M parameters")
    for heading in ("parameter", "shape", "infinite", "role", "init std", "lr x", "decay x", "forward x"):
        page.add_column(heading, justify="left" if heading in ("parameter", "role") else "right", no_wrap=True)
    seen: set[str] = set()
    for row in table.rows:
        folded = ".".join("*" if part.isdigit() and "blocks" in row.name else part for part in row.name.split("."))
        if folded in seen:
            continue
        seen.add(folded)
        page.add_row(
            folded,
            "x".join(map(str, row.shape)),
            str(row.infinite_dims),
            row.role,
            f"{row.init_std:.4g}",
            f"{row.lr_multiplier:.4g}",
            f"{row.weight_decay_multiplier:.4g}",
            f"{row.forward_multiplier:.4g}",
        )
    console = Console()
    console.width = max(console.width, _LEGIBLE)  # a name cut short is worse than a wrapped line
    console.print(page)
