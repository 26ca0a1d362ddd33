"""`mudit params`: the parametrization, tensor by tensor."""

from __future__ import annotations

from typing import Annotated

import typer

from mudit.commands.options import DEFAULT_CONFIG, AsJson, ConfigPath, SchemeOption
from mudit.errors import ConfigError


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
