"""Files that are in two places at once without being there twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_or_copy(source: Path, target: Path) -> None:
    """`source` under another name as well: a hard link, or a copy where the file system has none. Raises OSError.

    For finished files only: whoever writes into one writes into both.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
