"""The command line: one subcommand per stage, and what looks at the whole. Imports no torch until a stage runs.

A user's error is one line on stderr and exit code 2. Anything else is a bug: it keeps its traceback and exits with 1.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mudit import __version__, logs
from mudit.commands import claims, config, fetch, freshness, interchange, launch, params, plan, release, status
from mudit.commands.options import DEFAULT_CONFIG, ConfigPath, ExperimentName
from mudit.errors import MuditError
from mudit.jobs.distributed import World
from mudit.stages import STAGES, Stage

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
config_app = typer.Typer(no_args_is_help=True, help="Check the configuration; regenerate its reference.")

Key = Annotated[str, typer.Argument(metavar="KEY", help="Which artefact of the stage; left out, they are listed.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again even if it is fresh.")]


def main() -> None:
    """Entry point."""
    try:
        app()
    except MuditError as error:
        print(f"mudit: {error}", file=sys.stderr)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    """Find the hyperparameters of a big diffusion transformer on small ones, and show the evidence.

    `snakemake --cores all` runs the whole study; each stage below makes one artefact of it.
    """
    if version:
        print(f"mudit {__version__}")
        raise typer.Exit


def _make(stage: Stage, experiment: str, key: str, config: Path, force: bool) -> None:
    from mudit.commands.making import make_artefact
    from mudit.config.load import load
    from mudit.stages import find

    logs.setup(logging.INFO if World.of_environment().main else logging.WARNING)
    loaded = load(config)
    artefact = find(loaded, experiment, stage.name, key)
    make_artefact(artefact, loaded.experiments[experiment], force=force)


def _stage_command(stage: Stage) -> Callable[..., None]:
    """The subcommand of a stage. Typer reads a function's signature, so the two kinds of stages need two functions."""

    def single(experiment: ExperimentName, config: ConfigPath = DEFAULT_CONFIG, force: Force = False) -> None:
        _make(stage, experiment, "", config, force)

    def keyed(experiment: ExperimentName, key: Key = "", config: ConfigPath = DEFAULT_CONFIG, force: Force = False) -> None:
        _make(stage, experiment, key, config, force)

    return keyed if stage.keys else single


for _stage in STAGES.values():
    app.command(_stage.name, help=_stage.summary)(_stage_command(_stage))


app.command()(launch.launch)
app.command()(params.params)
app.command()(plan.plan)
app.command()(freshness.verify)
app.command()(freshness.adopt)
app.command()(release.release)
app.command()(status.status)
app.command()(claims.claims)
app.command()(fetch.fetch)
app.command("import")(interchange.import_)
app.command()(interchange.export)
app.command()(config.dvc)
app.add_typer(config_app, name="config")
config_app.command("check")(config.check)
config_app.command("fix")(config.fix)
