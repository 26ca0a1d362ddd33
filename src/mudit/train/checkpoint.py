"""Checkpoints of an unfinished run: safetensors and JSON, written atomically, checked when read.

A checkpoint is a folder `step-00000200/` with `tensors.safetensors` and `state.json` (identity, step, checksum). It appears by one
rename, so a kill leaves either a whole checkpoint or none; a damaged one is skipped, loudly, for the one before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mudit.data.tensors import save_tensors
from mudit.errors import CheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and JSON-able state, as they were after `step` optimizer steps."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run; `identity` is written into each and must match when one is read."""

    def __init__(self, folder: Path, *, identity: str, keep: int) -> None:
        self._folder, self._identity, self._keep = folder, identity, keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one, then drop all but the newest `keep`."""
        final = self._folder / f"step-{checkpoint.step:08d}"
        partial = self._folder / f".{final.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_tensors(checkpoint.tensors, partial / "tensors.safetensors")
        meta = {
            "identity": self._identity,
            "step": checkpoint.step,
            "sha256": _sha256(partial / "tensors.safetensors"),
            "state": checkpoint.state,
        }
        (partial / "state.json").write_text(json.dumps(meta))
        for name in ("tensors.safetensors", "state.json"):
            _sync(partial / name)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _sync(self._folder)
        for old in self._saved()[: -self._keep]:
            shutil.rmtree(old)

    def latest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None. Raises CheckpointError if one belongs to another run."""
        for folder in reversed(self._saved()):
            try:
                return self._read(folder)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                if isinstance(error, CheckpointError):
                    raise
                log.warning("%s is damaged (%s); falling back to the checkpoint before it", folder, error)
        return None

    def _read(self, folder: Path) -> Checkpoint:
        meta = json.loads((folder / "state.json").read_text())
        if meta["identity"] != self._identity:
            raise CheckpointError(f"{folder} belongs to another run; remove its folder {self._folder} to start this run afresh")
        if _sha256(folder / "tensors.safetensors") != meta["sha256"]:
            raise ValueError("tensors differ from their checksum")
        return Checkpoint(meta["step"], load_file(folder / "tensors.safetensors"), meta["state"])

    def _saved(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
