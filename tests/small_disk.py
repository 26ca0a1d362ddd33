"""A disk that can be filled: a file system in memory, which needs the right to mount."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    """A file system in memory whose size changes while it is in use."""

    path: Path

    def fill(self, spare_kb: int = 0) -> None:
        """Leave this much room."""
        used = int(subprocess.run(["du", "-sk", self.path], check=True, capture_output=True, text=True).stdout.split()[0])
        self._resize(f"{used + spare_kb}k")

    def grow(self) -> None:
        self._resize("64m")

    def _resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.path], check=True)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Disk]:
    """A disk of 64 MB, mounted at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
