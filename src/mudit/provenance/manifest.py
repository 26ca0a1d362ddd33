"""The manifest of an artefact: `manifest.json` beside its files, written last, so that its presence means a complete artefact.

Keys: `schema`, `artefact` (its id), `content` (digest of the files), `parameters`, `inputs` (artefact -> content digest when it
was read), `gates` (the same for what had to be fresh first), `code` (module -> digest), `digests` (of parameters and code, each
as one value), `environment`, `git`, `run` (command, device, processes, threads, wall seconds, peak memory in bytes, model
FLOPs or null where networks ran that nobody counts, when it ended in UTC), `summary` (what the stage returned) and `outputs`
(file -> sha256 and bytes).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mudit.errors import ResultsError
from mudit.files import sha256_file, sync, write_text
from mudit.provenance.source import digest

SCHEMA = 1
FILE = "manifest.json"


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
    """Make everything in the folder durable, then add the manifest in one rename: whoever finds it finds a complete artefact."""
    for path in folder.rglob("*"):
        sync(path)
    write_text(folder / FILE, json.dumps(manifest, indent=1, sort_keys=True) + "\n", durable=True)
    sync(folder)


def outputs(folder: Path, known: Mapping[str, tuple[str, int]] | None = None) -> dict[str, dict[str, Any]]:
    """Every file below the folder, except its manifest -> sha256 and size in bytes.

    known: the same of files that need not be read, as `Job.known`. Raises ResultsError if one of them is gone or has another size.
    """
    known = known or {}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path != folder / FILE}
    described = {}
    for name in sorted(found | known.keys()):  # a network file system may list names late that other machines made
        digest, size = known[name] if name in known else (sha256_file(folder / name), (folder / name).stat().st_size)
        present = (folder / name).stat().st_size if (folder / name).is_file() else None
        if present != size:
            raise ResultsError(f"{folder / name}: {present or 'no'} bytes instead of the {size} that were written; check the disk")
        described[name] = {"sha256": digest, "bytes": size}
    return described
