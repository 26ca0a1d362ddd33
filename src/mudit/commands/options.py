"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ConfigPath = Annotated[Path, typer.Option("--config", help="The configuration file.")]
ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment of the configuration.")]
SchemeOption = Annotated[Literal["mup", "sp", "sp-same-init"], typer.Option("--scheme", help="Parametrization.")]
Selection = Annotated[str, typer.Argument(metavar="STUDY|EXPERIMENT", help="Default: the study of the configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_CONFIG = Path("config.yaml")
