"""Files on the disk: in two places at once without being there twice, and safe from a power cut."""

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


def sync(path: Path) -> None:
    """Return when a file's bytes, or the names in a folder, are on the disk itself. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
