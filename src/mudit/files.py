"""Files on the disk: in two places at once without being there twice, whole or not there, and safe from a power cut.

And where mudit keeps what it fetched or looked up once. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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


def write_text(path: Path, text: str, *, durable: bool) -> None:
    """Write a small UTF-8 file in one rename: whoever finds it finds it whole. Raises OSError.

    durable: return when it is on the disk itself, its name aside (`sync` of the folder). For one writer of `path` at a time.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    if durable:
        sync(partial)
    partial.replace(path)


def start_or_resume(folder: Path, plan: Mapping[str, Any]) -> None:
    """Make a folder of unfinished work this plan's (JSON values): what is in it stays if it is of the same plan, else it goes."""
    path, text = folder / "plan.json", json.dumps(plan, sort_keys=True)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(path, text, durable=False)


def sync(path: Path) -> None:
    """Return when a file's bytes, or the names in a folder, are on the disk itself. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file's bytes, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where fetched data lies: `$MUDIT_CACHE`, else `mudit` in the user's cache folder."""
    if folder := os.environ.get("MUDIT_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mudit"
