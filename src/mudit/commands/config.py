"""`mudit config`: check the configuration, regenerate what is made from it and from its schema. `mudit dvc`: a study for DVC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mudit.commands.options import DEFAULT_CONFIG, ConfigPath
from mudit.errors import ConfigError


def check(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Validate the configuration, and that its generated schema and reference and DVC's files are up to date."""
    from mudit.config.export import drifted
    from mudit.config.load import load
    from mudit.provenance import pipelines
    from mudit.provenance.source import REPOSITORY

    loaded = load(config)
    if drift := drifted(REPOSITORY):
        raise ConfigError(f"{', '.join(drift)}: not what mudit.config.schema says; run: mudit config fix")
    if drift := pipelines.drifted(config.parent):
        raise ConfigError(f"{', '.join(drift)}: not what {config} and the registry of stages say; run: mudit config fix")
    print(f"{config}: valid; studies {', '.join(loaded.studies)}; experiments {', '.join(loaded.experiments)}")


def fix() -> None:
    """Regenerate the JSON schema, the reference of the configuration and, of this folder's project, DVC's files."""
    from mudit.config.export import write
    from mudit.provenance import pipelines
    from mudit.provenance.source import REPOSITORY

    _tell([*write(REPOSITORY), *pipelines.write(Path())])


def dvc(study: Annotated[str, typer.Argument(metavar="STUDY", help="The study that DVC shall know.")]) -> None:
    """Let DVC know another study: studies/STUDY/dvc.yaml."""
    from mudit.provenance import pipelines

    _tell(pipelines.write(Path(), study))


def _tell(written: list[str]) -> None:
    print(f"wrote {', '.join(written)}" if written else "nothing has drifted")
