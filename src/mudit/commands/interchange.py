"""`mudit import` and `mudit export` on the command line. Imports no torch until one of them runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from mudit.commands.options import DEFAULT_CONFIG, ConfigPath, ExperimentName
from mudit.errors import ConfigError


def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A .pt or .pth file, a safetensors file, or a folder of diffusers.")],
    family: Annotated[Literal["dit", "pixart", "uvit", "mmdit"], typer.Option("--as", help="The model's family.")],
    scheme: Annotated[
        Literal["mup", "sp"],
        typer.Option("--scheme", help="How it was trained; muP's readout has a multiplier outside the weights."),
    ],
    to: Annotated[Path | None, typer.Option("--to", help="Folder to make (default: imported/NAME).")] = None,
    base_width: Annotated[int | None, typer.Option("--base-width", min=1, help="With mup: width of multiplier 1.")] = None,
    output_mult: Annotated[float, typer.Option("--output-mult", min=0.0, help="With mup: the readout's own multiplier.")] = 1.0,
    head_dim: Annotated[int | None, typer.Option("--head-dim", min=1, help="Channels of one attention head.")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", min=1, help="Side of the input, in latent pixels.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest caption, in tokens.")] = None,
    null_caption: Annotated[
        Path | None, typer.Option("--null-caption", help="For PixArt of diffusers: folder of the T5 encoder.")
    ] = None,
) -> None:
    """Bring a checkpoint from elsewhere into the project."""
    if scheme == "sp" and (base_width is not None or output_mult != 1.0):
        raise ConfigError("import: --base-width and --output-mult belong to --scheme mup")
    if not 0.0 < output_mult < math.inf:
        raise ConfigError(f"--output-mult {output_mult}: must be positive and finite")
    from mudit.interchange.architecture import Stated, Widths
    from mudit.interchange.importer import Wish, import_checkpoint

    widths = None if base_width is None else Widths(base_width, 2 * base_width, output_mult)
    stated = Stated(head_dim=head_dim, image_size=image_size, max_tokens=max_tokens)
    folder = to or Path("imported") / path.resolve().name.partition(".")[0]
    manifest = import_checkpoint(Wish(path, family, scheme, stated, widths, null_caption), folder)
    for file, facts in manifest["weights"].items():
        print(f"{folder / file}: {facts['tensors']} tensors, from the layout {facts['layout']}")
    if manifest["ignored"]:
        print(f"not read: {', '.join(manifest['ignored'])}")


def export(
    experiment: ExperimentName,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A target run such as mup_s0, or an imported checkpoint.")],
    form: Annotated[
        Literal["diffusers", "safetensors"], typer.Option("--format", help="A folder of diffusers, or plain weights.")
    ] = "diffusers",
    which: Annotated[
        Literal["ema", "raw"] | None, typer.Option("--weights", help="The average (default), or the last step's.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to make (default: exported/EXPERIMENT-KEY).")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Write a run's weights for use elsewhere."""
    from mudit.config.load import load
    from mudit.stages import known

    loaded = load(config)
    known(experiment, loaded.experiments, "experiment")
    folder = to or Path("exported") / f"{experiment}-{key}"
    from mudit.interchange.export import export_run

    for line in export_run(experiment, loaded.experiments[experiment], key, form, which, folder):
        print(line)
