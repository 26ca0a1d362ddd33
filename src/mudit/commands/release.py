"""`mudit release`: the findings as a plain folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mudit.commands.options import DEFAULT_CONFIG, ConfigPath, Selection


def release(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the release's folder.")],
    selection: Selection = "",
    root: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where releases lie.")] = Path("releases"),
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Write the findings into a folder: reports, ledgers, manifests."""
    from mudit.config.load import load
    from mudit.release.folder import release as write_release

    print(write_release(load(config), selection or None, name, root))
