"""The command line: one subcommand per stage, and what looks at the whole. Imports no torch until a stage runs.

A user's error is one line on stderr and exit code 2. Anything else is a bug: it keeps its traceback and exits with 1.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mudit import __version__, logs
from mudit.distributed import World
from mudit.errors import ConfigError, MuditError
from mudit.fetch import SETS, SetName, cache_folder
from mudit.fetch import fetch as fetch_set
from mudit.stages import STAGES, Stage

if TYPE_CHECKING:
    from mudit.provenance.verdict import Verdict

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
config_app = typer.Typer(no_args_is_help=True, help="Check the configuration; regenerate its reference.")
app.add_typer(config_app, name="config")

ConfigPath = Annotated[Path, typer.Option("--config", help="The configuration file.")]
ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment of the configuration.")]
SchemeOption = Annotated[Literal["mup", "sp", "sp-same-init"], typer.Option("--scheme", help="Parametrization.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Which artefact of the stage; left out, they are listed.")]
Force = Annotated[bool, typer.Option("--force", help="Make it again even if it is fresh.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_CONFIG = Path("config.yaml")


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
    from mudit.config.load import load
    from mudit.provenance.execute import make
    from mudit.stages import find

    logs.setup(logging.INFO if World.of_environment().main else logging.WARNING)
    loaded = load(config)
    artefact = find(loaded, experiment, stage.name, key)
    make(artefact, loaded.experiments[experiment], force=force)


def _stage_command(stage: Stage) -> Callable[..., None]:
    """The subcommand of a stage. Typer reads a function's signature, so the two kinds of stages need two functions."""

    def single(experiment: ExperimentName, config: ConfigPath = DEFAULT_CONFIG, force: Force = False) -> None:
        _make(stage, experiment, "", config, force)

    def keyed(experiment: ExperimentName, key: Key = "", config: ConfigPath = DEFAULT_CONFIG, force: Force = False) -> None:
        _make(stage, experiment, key, config, force)

    return keyed if stage.keys else single


for _stage in STAGES.values():
    app.command(_stage.name, help=_stage.summary)(_stage_command(_stage))


@app.command()
def params(
    width: Annotated[int, typer.Option("--width", help="Model width in channels.")],
    experiment: Annotated[str, typer.Argument(metavar="[EXPERIMENT]", help="An experiment of the configuration.")] = "",
    scheme: SchemeOption = "mup",
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    model: Annotated[
        str, typer.Option("--model", metavar="MODULE:FACTORY", help="A factory of your own instead of an experiment.")
    ] = "",
    base_width: Annotated[int, typer.Option("--base-width", help="With --model: width at which muP is the plain model.")] = 0,
    delta_width: Annotated[int, typer.Option("--delta-width", help="With --model: a second width (default: twice the base).")] = 0,
    width_argument: Annotated[str, typer.Option("--width-argument", help="With --model: the factory's width argument.")] = "width",
    width_unit: Annotated[int, typer.Option("--width-unit", help="With --model: channels per unit of it, such as head_dim.")] = 1,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="With --model: another argument; repeatable.")
    ] = None,
    zero_readout: Annotated[bool, typer.Option("--zero-readout", help="With --model: readouts start at zero.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="With --model: seed of the measured init.")] = 0,
) -> None:
    """Show how each parameter is initialised and scaled."""
    if bool(experiment) == bool(model):
        raise ConfigError("params: name an experiment of the configuration, or a factory of your own with --model")
    if experiment:
        if base_width or delta_width or option:
            raise ConfigError(f"params {experiment}: --base-width, --delta-width and --option go with --model; the file has them")
        from mudit.config.load import load
        from mudit.stages import known

        loaded = load(config)
        known(experiment, loaded.experiments, "experiment")
        from mudit.parametrization import show

        show.print_table(show.run(loaded.experiments[experiment], width, scheme), as_json)
        return
    if not base_width:
        raise ConfigError("params --model: say the width at which muP is the plain model: --base-width N")
    from mudit.parametrization import show

    factory = show.factory_of(model, width_argument, width_unit, option or [], seed)
    delta_width = delta_width or 2 * base_width
    show.print_table(show.run_factory(factory, width, base_width, delta_width, scheme, zero_readout), as_json)


@app.command()
def verify(
    selection: Annotated[str, typer.Argument(metavar="STUDY|EXPERIMENT", help="Default: the study of the configuration.")] = "",
    explain: Annotated[bool, typer.Option("--explain", help="Say why, and what mends it.")] = False,
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Files above 8 MiB: compare sizes only.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Say which artefacts are fresh, which are not, and why. Exit code 1 unless all are fresh."""
    from mudit.config.load import load
    from mudit.provenance.verdict import inspect

    verdicts = inspect(load(config), selection or None, quick=quick)
    _print_json(verdicts) if as_json else _print_lines(verdicts, explain)
    if not all(verdict.fresh for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
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


def _print_json(verdicts: list[Verdict]) -> None:
    rows = [
        {
            "artefact": verdict.artefact.id,
            "state": verdict.state,
            "reasons": list(verdict.reasons),
            "notes": list(verdict.notes),
            "mend": None if verdict.fresh else verdict.artefact.command,
        }
        for verdict in verdicts
    ]
    print(json.dumps({"fresh": all(verdict.fresh for verdict in verdicts), "artefacts": rows}, indent=1))


def _print_lines(verdicts: list[Verdict], explain: bool) -> None:
    shown = verdicts if explain else [verdict for verdict in verdicts if not verdict.fresh]
    width = max((len(verdict.artefact.id) for verdict in shown), default=0)
    for verdict in shown:
        mend = "" if verdict.fresh or not explain else f"  mend: {verdict.artefact.command}"
        print(f"{verdict.state:8}{verdict.artefact.id:{width}}{mend}".rstrip())
        for line in [*verdict.reasons, *(f"note: {note}" for note in verdict.notes)] if explain else []:
            print(f"        {line}")
    fresh = sum(verdict.fresh for verdict in verdicts)
    mend = "" if fresh == len(verdicts) else "; to mend all: snakemake --cores all"
    print(f"{fresh} of {len(verdicts)} artefacts are fresh{mend}")


@app.command()
def fetch(
    dataset: Annotated[SetName, typer.Argument(metavar="SET", help=f"One of: {', '.join(SETS)}.")],
) -> None:
    """Fetch a packaged data set into the cache, once."""
    logs.setup()
    for line in fetch_set(dataset):
        print(line)
    print(f"in {cache_folder()}")


@config_app.command("check")
def config_check(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Validate the configuration, and that its generated schema and reference are up to date."""
    from mudit.config.export import drifted
    from mudit.config.load import load
    from mudit.provenance.source import REPOSITORY

    loaded = load(config)
    if drift := drifted(REPOSITORY):
        raise ConfigError(f"{', '.join(drift)}: not what mudit.config.schema says; run: mudit config fix")
    print(f"{config}: valid; studies {', '.join(loaded.studies)}; experiments {', '.join(loaded.experiments)}")


@config_app.command("fix")
def config_fix() -> None:
    """Regenerate the JSON schema and the reference from mudit.config.schema."""
    from mudit.config.export import write
    from mudit.provenance.source import REPOSITORY

    written = write(REPOSITORY)
    print(f"wrote {', '.join(written)}" if written else "nothing has drifted")
