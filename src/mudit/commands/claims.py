"""`mudit claims`: the ledgers of all reports as one table."""

from __future__ import annotations

from typing import Annotated

import typer

from mudit.commands.options import DEFAULT_CONFIG, AsJson, ConfigPath


def claims(
    selection: Annotated[str, typer.Argument(metavar="STUDY|EXPERIMENT", help="Default: every experiment.")] = "",
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Show each claim of the paper beside what was measured."""
    from mudit.config.load import load
    from mudit.report import claims as claims_table

    found = claims_table.read(load(config), selection or None)
    claims_table.print_json(found) if as_json else claims_table.print_table(found)
