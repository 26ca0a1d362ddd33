"""Reading a checkpoint's tensors, whole or by rows, whatever layout wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

from mudit.files import sha256_file
from mudit.train.shards import Shard, shard_of

INDEX = "state.json"


class Stored(Mapping[str, Tensor]):
    """A checkpoint on disk. A tensor is read when it is asked for; files are mapped, so only the rows that are used are read."""

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.identity: str = index["identity"]
        self.step: int = index["step"]
        self.state: dict[str, Any] = index["state"]
        self._folder = folder
        self._files: list[dict[str, str]] = index["files"]
        self._tensors: dict[str, dict[str, Any]] = index["tensors"]
        self._open: dict[int, Any] = {}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the index only. Raises OSError, ValueError or KeyError if it is not one."""
        return cls(folder, json.loads((folder / INDEX).read_text(encoding="utf-8")))

    def check(self, rank: int, ranks: int) -> None:
        """Compare the checksums of this rank's share of the files. Raises OSError or ValueError."""
        for entry in self._files[rank::ranks]:
            if sha256_file(self._folder / entry["file"]) != entry["sha256"]:
                raise ValueError(f"{entry['file']} differs from its checksum")

    def __getitem__(self, name: str) -> Tensor:
        shape = self._tensors[name]["shape"]
        return self._rows(name, 0, shape[0] if shape else 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @torch.no_grad()
    def fill(self, target: Tensor, name: str) -> None:
        """Copy the saved values into a tensor, or into this process's rows of a DTensor."""
        mine: Shard = shard_of(target)
        assert list(mine.shape) == self._tensors[name]["shape"], f"{name}: {mine.shape} is not the saved shape"
        if mine.rows:
            mine.local.copy_(self._rows(name, mine.first, mine.first + mine.rows))

    def _rows(self, name: str, first: int, last: int) -> Tensor:
        parts = []
        for number, begin, end in sorted(self._tensors[name]["pieces"], key=lambda piece: piece[1]):
            start, stop = max(first, begin), min(last, end)
            if start >= stop:
                continue
            file = self._mapped(number)
            if not self._tensors[name]["shape"]:
                return file.get_tensor(name)
            parts.append(file.get_slice(name)[start - begin : stop - begin])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _mapped(self, number: int) -> Any:
        if number not in self._open:
            self._open[number] = safe_open(self._folder / self._files[number]["file"], framework="pt")
        return self._open[number]
