"""`mudit verify` and `mudit adopt`: which artefacts are fresh, and how those made elsewhere become ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mudit.commands.options import DEFAULT_CONFIG, AsJson, ConfigPath, Selection
from mudit.errors import ConfigError

if TYPE_CHECKING:
    from mudit.provenance.verdict import Verdict


def verify(
    selection: Selection = "",
    explain: Annotated[bool, typer.Option("--explain", help="Say why, and what mends it.")] = False,
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Files above 8 MiB: compare sizes only.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Say which artefacts are fresh, which are not, and why. Exit code 1 if anything needs to be made or mended."""
    from mudit.config.load import load
    from mudit.provenance.verdict import inspect

    verdicts = inspect(load(config), selection or None, quick=quick)
    _print_json(verdicts) if as_json else _print_lines(verdicts, explain)
    if not all(verdict.done for verdict in verdicts):
        raise typer.Exit(1)


def adopt(
    selection: Selection = "",
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Another project folder whose results to take over.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Check results made elsewhere and record them for Git and DVC."""
    from mudit.config.load import load
    from mudit.provenance.adopt import adopt as adopt_results

    if source is not None and not source.is_dir():
        raise ConfigError(f"adopt --from {source}: no such folder")
    for line in adopt_results(load(config), selection or None, source):
        print(line)


def _print_json(verdicts: list[Verdict]) -> None:
    rows = [
        {
            "artefact": verdict.artefact.id,
            "state": verdict.state,
            "reasons": list(verdict.reasons),
            "notes": list(verdict.notes),
            "mend": verdict.mend,
        }
        for verdict in verdicts
    ]
    print(json.dumps({"fresh": all(verdict.fresh for verdict in verdicts), "artefacts": rows}, indent=1))


def _print_lines(verdicts: list[Verdict], explain: bool) -> None:
    shown = verdicts if explain else [verdict for verdict in verdicts if not verdict.fresh]
    width = max((len(verdict.artefact.id) for verdict in shown), default=0)
    for verdict in shown:
        after = ", after what it reads" if verdict.reasons and not verdict.own_reasons else ""
        mend = f"  mend: {verdict.mend}{after}" if verdict.mend and explain else ""
        print(f"{verdict.state:10}{verdict.artefact.id:{width}}{mend}".rstrip())
        for line in [*verdict.reasons, *(f"note: {note}" for note in verdict.notes)] if explain else []:
            print(f"          {line}")
    fresh, elsewhere = (sum(verdict.state == state for verdict in verdicts) for state in ("fresh", "elsewhere"))
    others = f", {elsewhere} are elsewhere" if elsewhere else ""
    mend = "" if fresh + elsewhere == len(verdicts) else "; to mend all: snakemake --cores all"
    print(f"{fresh} of {len(verdicts)} artefacts are fresh{others}{mend}")
