"""`mudit params`: the parametrization, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from mudit.commands.options import DEFAULT_CONFIG, AsJson, ConfigPath, SchemeOption
from mudit.errors import ConfigError

# Parameter of the command -> option that belongs to --model: the file, or the preset, has what they say.
_OF_FACTORY = {
    "base_width": "--base-width",
    "delta_width": "--delta-width",
    "width_argument": "--width-argument",
    "width_unit": "--width-unit",
    "option": "--option",
    "zero_readout": "--zero-readout",
    "seed": "--seed",
}
# What says nothing about the list of presets.
_OF_TABLE = {"width": "--width", "scheme": "--scheme"}


def params(
    context: typer.Context,
    experiment: Annotated[str, typer.Argument(metavar="[EXPERIMENT]", help="An experiment of the configuration.")] = "",
    width: Annotated[int | None, typer.Option("--width", help="Model width in channels (with --preset: default its own).")] = None,
    preset: Annotated[str, typer.Option("--preset", metavar="NAME", help="A published model, such as DiT-XL/2.")] = "",
    presets: Annotated[bool, typer.Option("--presets", help="List the published models, with their sizes.")] = False,
    scheme: SchemeOption = "mup",
    as_json: AsJson = False,
    config: ConfigPath = DEFAULT_CONFIG,
    model: Annotated[
        str, typer.Option("--model", metavar="MODULE:FACTORY", help="A factory of your own instead of an experiment.")
    ] = "",
    base_width: Annotated[
        int | None, typer.Option("--base-width", help="With --model: width at which muP is the plain model.")
    ] = None,
    delta_width: Annotated[
        int | None, typer.Option("--delta-width", help="With --model: a second width (default: twice the base).")
    ] = None,
    width_argument: Annotated[str, typer.Option("--width-argument", help="With --model: the factory's width argument.")] = "width",
    width_unit: Annotated[int, typer.Option("--width-unit", help="With --model: channels per unit of it, such as head_dim.")] = 1,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="With --model: another argument; repeatable.")
    ] = None,
    zero_readout: Annotated[bool, typer.Option("--zero-readout", help="With --model: readouts start at zero.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="With --model: seed of the measured init.")] = 0,
) -> None:
    """Show how each parameter is initialised and scaled."""
    if [bool(experiment), bool(preset), presets, bool(model)].count(True) != 1:
        raise ConfigError(
            "params: name one of an experiment of the configuration, a published model (--preset; --presets lists them) or a "
            "factory of your own (--model)"
        )
    if not model:
        _refuse(context, _OF_FACTORY, f"params {experiment or preset or '--presets'}: {{}} goes with --model only; leave it out")
    if not experiment:
        _refuse(context, {"config": "--config"}, "params: {} goes with an experiment only; leave it out")
    if presets:
        _refuse(context, _OF_TABLE, "params --presets: it lists the models as published; {} goes with --preset NAME")
        from mudit.parametrization.show_presets import print_presets

        print_presets(as_json)
        return
    section = None
    if preset:
        from mudit.config.presets import PRESETS
        from mudit.stages import known

        known(preset, PRESETS, "published model")
        section, width = PRESETS[preset].model, PRESETS[preset].width if width is None else width
    if width is None:
        raise ConfigError("params: say the width in channels: --width N")
    if experiment:
        from mudit.config.load import load
        from mudit.stages import known

        loaded = load(config)
        known(experiment, loaded.experiments, "experiment")
        section = loaded.experiments[experiment].model
    if section is not None:
        from mudit.parametrization.show import print_table
        from mudit.parametrization.table import table_for

        print_table(table_for(section, width, scheme), as_json)
        return
    if base_width is None:
        raise ConfigError("params --model: say the width at which muP is the plain model: --base-width N")
    from mudit.parametrization import show

    factory = show.factory_of(model, width_argument, width_unit, option or [], seed)
    delta_width = 2 * base_width if delta_width is None else delta_width
    show.print_table(show.run_factory(factory, width, base_width, delta_width, scheme, zero_readout), as_json)


def _refuse(context: typer.Context, options: Mapping[str, str], why: str) -> None:
    """An option without effect is refused, not ignored. options: parameter of the command -> option."""
    for name, flag in options.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(why.format(flag))
