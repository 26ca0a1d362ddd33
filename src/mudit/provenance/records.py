"""Records in Git of artefacts whose files may be elsewhere: `records/<artefact id>.json`, a copy of the artefact's manifest.

A store of 150 GB or a checkpoint made on a cluster need not be in every clone. A record says that the artefact was made and
checked, from what, and which files it has; so a clone without the files knows that what was made from them is still fresh, and what
to fetch before something new can be made from them. `mudit adopt` writes records; nothing else does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mudit.files import write_text
from mudit.provenance import manifest as manifests
from mudit.stages import Artefact

ROOT = Path("records")


def path(artefact: Artefact) -> Path:
    """The artefact's record, relative to the working directory."""
    return ROOT / f"{artefact.id}.json"


def read(artefact: Artefact) -> dict[str, Any] | None:
    """The recorded manifest; None if there is none. Raises ManifestError if it is damaged or another artefact's."""
    manifest = manifests.read_file(path(artefact))
    if manifest is not None and manifest["artefact"] != artefact.id:
        raise manifests.ManifestError(f"{path(artefact)} is the record of {manifest['artefact']}")
    return manifest


def write(artefact: Artefact, manifest: dict[str, Any]) -> bool:
    """Record a manifest, in one rename. Returns whether that changed anything."""
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    file = path(artefact)
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text, durable=False)
    return True
