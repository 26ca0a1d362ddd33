"""A table of bad checkpoints, and the one test that each must pass: refused with one line, nothing run, nothing left behind."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mudit.errors import CheckpointError
from mudit.interchange.importer import Wish, import_checkpoint

from .conftest import STATED

Maker = Callable[..., None]


class Cases:
    """Makers of bad checkpoints by name; each is called with a path, a good state dict of DiT and the canary's path."""

    def __init__(self, file: str) -> None:
        """file: what the checkpoints are called, where a case does not say otherwise."""
        self._file = file
        self._cases: dict[str, tuple[Maker, str, str]] = {}

    @property
    def names(self) -> list[str]:
        return list(self._cases)

    def case(self, pattern: str, family: str = "dit") -> Callable[[Maker], Maker]:
        """Registers a maker; `pattern` is in the line that refuses it."""

        def keep(maker: Maker) -> Maker:
            self._cases[maker.__name__] = (maker, pattern, family)
            return maker

        return keep

    def check(self, name: str, state, folder: Path) -> None:
        """Makes the checkpoint and imports it. Nothing may be written but by the maker, and the canary may not be there."""
        maker, pattern, family = self._cases[name]
        canary, bad = folder / "canary", folder / "elsewhere" / self._file
        bad.parent.mkdir()
        maker(bad, state, canary)
        before = sorted(folder.rglob("*"))
        with pytest.raises(CheckpointError, match=pattern) as refused:
            import_checkpoint(Wish(bad, family, "sp", STATED[family], None), folder / "new" / "out")
        assert str(bad) in str(refused.value) and "\n" not in str(refused.value)
        assert sorted(folder.rglob("*")) == before
        assert not canary.exists()


class Attack:
    """Unpickling it calls the function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write_header(path: Path, entries, data: bytes = b"", length: int | None = None) -> None:
    """A safetensors file with this header, JSON or raw bytes."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def write_archive(path: Path, pickled: bytes) -> None:
    """A PyTorch file with this pickle and no tensors."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad/data.pkl", pickled)
        archive.writestr("bad/version", "3\n")
        archive.writestr("bad/byteorder", "little")
