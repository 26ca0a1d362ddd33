"""How the workflow engine learns what need not be made: one empty file per such artefact, `state/fresh/<artefact id>`.

The rules declare these tokens as their outputs and never compare times, so Snakemake runs exactly the jobs whose token is missing.
Before it plans, `sync` makes the tokens agree with the verdicts; so an edit, a pull, a copy, a touch or a lost `.snakemake` cannot
mislead it. Tokens are derived: deleting them loses nothing.
"""

from __future__ import annotations

from pathlib import Path

from mudit.config.schema import Config
from mudit.provenance.verdict import Verdict, inspect
from mudit.stages import STATE, Artefact

ROOT = STATE / "fresh"


def path(artefact: Artefact) -> Path:
    """The artefact's token, relative to the working directory."""
    return ROOT / artefact.id


def sync(config: Config, selection: str) -> list[Verdict]:
    """Create the tokens of artefacts of a study or experiment that need not be made, remove all others. Returns all verdicts."""
    verdicts = inspect(config, selection, quick=True)
    for verdict in verdicts:
        token = path(verdict.artefact)
        if not verdict.done:
            token.unlink(missing_ok=True)
        elif not token.exists():
            token.parent.mkdir(parents=True, exist_ok=True)
            token.touch()
    return verdicts
