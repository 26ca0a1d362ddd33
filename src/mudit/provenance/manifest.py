"""The manifest of an artefact: `manifest.json` beside its files, written last, so that its presence means a complete artefact.

Keys: `schema`, `artefact` (its id), `content` (digest of the files), `parameters`, `inputs` (artefact -> content digest when it
was read), `gates` (the same for what had to be fresh first), `code` (module -> digest), `digests` (of parameters and code, each
as one value), `environment`, `git`, `run` (command, device, processes, threads, wall seconds, peak memory in bytes, model
FLOPs, when it ended in UTC), `summary` (what the stage returned) and `outputs` (file -> sha256 and bytes).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mudit.provenance.source import digest

SCHEMA = 1
FILE = "manifest.json"
_CHUNK = 1 << 20


class ManifestError(Exception):
    """The file is there but is not a manifest of this schema."""


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artefact; None if it has none. Raises ManifestError."""
    return read_file(folder / FILE)


def read_file(path: Path) -> dict[str, Any] | None:
    """A manifest from a file of any name; None if there is no such file. Raises ManifestError."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        raise ManifestError(f"{path.name} cannot be read ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ManifestError(f"{path.name} is not of schema {SCHEMA}")
    if digest(manifest["outputs"]) != manifest["content"]:
        raise ManifestError(f"{path.name} has been edited")
    return manifest


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest and make everything in the folder durable before anyone can see it."""
    path = folder / FILE
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for file in folder.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file below the folder, except its manifest -> sha256 and size in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILE)
    return {path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size} for path in files}


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            hasher.update(piece)
    return hasher.hexdigest()
