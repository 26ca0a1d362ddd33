"""Millions of names in two arrays instead of a Python object each, and digests of what they name."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray


class LazyNames(Sequence[str]):
    """Names that are made when asked for: there may be very many. A slice is a list."""

    @abstractmethod
    def _name(self, index: int) -> str:
        """The name at 0 .. n - 1."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._name(place) for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        return self._name(place)


class PackedNames(LazyNames):
    """An immutable list of names: their UTF-8 bytes one after another, and where each ends (uint8 [bytes], int64 [n])."""

    def __init__(self, text: NDArray[np.uint8], ends_n: NDArray[np.int64]) -> None:
        assert (ends_n[-1] if len(ends_n) else 0) == len(text)
        self.text, self.ends_n = text, ends_n

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Packs names one at a time, so that they may come from a generator."""
        text, lengths = bytearray(), []
        for name in names:
            encoded = name.encode("utf-8", "surrogateescape")  # a file's name may be any bytes
            text += encoded
            lengths.append(len(encoded))
        return cls(np.frombuffer(bytes(text), dtype=np.uint8), np.cumsum(np.array(lengths, dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.ends_n)

    def _name(self, index: int) -> str:
        start = int(self.ends_n[index - 1]) if index else 0
        return self.text[start : int(self.ends_n[index])].tobytes().decode("utf-8", "surrogateescape")


class ChosenNames(LazyNames):
    """Some names of a longer list, looked up when asked for."""

    def __init__(self, names: Sequence[str], places_n: NDArray[np.int64]) -> None:
        self._names, self._places_n = names, places_n

    def __len__(self) -> int:
        return len(self._places_n)

    def _name(self, index: int) -> str:
        return self._names[int(self._places_n[index])]


def listing_sha256(root: Path, files: Iterable[Path]) -> str:
    """Digest of names and sizes: tells another set of files from this one without reading them. For few and large files."""
    listing = "\n".join(f"{file.relative_to(root).as_posix()}\t{file.stat().st_size}" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def names_sha256(names: PackedNames) -> str:
    """Digest of names alone: a size would cost a look at every file, which a network file system answers one by one."""
    digest = hashlib.sha256(names.ends_n.tobytes())
    digest.update(names.text.tobytes())
    return digest.hexdigest()
