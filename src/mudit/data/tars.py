"""Images inside tars, read in place: an index of where each lies, made once from the headers and kept in the cache.

Headers are parsed here, because `tarfile` keeps an object per member and cannot say that a tar was cut at a member's end. Read are
plain members in the formats that public data sets use: v7, ustar, GNU (long names) and pax (POSIX.1-2001).

Legend: n images of the index.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mudit.data.names import PackedNames
from mudit.errors import DataError
from mudit.files import cache_folder
from mudit.logs import progress

_BLOCK = 512
_CHECKSUM = slice(148, 156)
_PLAIN = (b"0", b"\0", b"7")
_VERSION = 1
_THREADS = 8  # headers of several tars at once: a network file system answers each with a delay


class Member(NamedTuple):
    """A plain file inside a tar: its name and where its bytes lie."""

    name: str
    offset: int
    bytes: int


class TarIndex(NamedTuple):
    """Members of some tars."""

    tars: list[Path]
    tar_n: NDArray[np.uint16]  # place in `tars`
    offset_n: NDArray[np.int64]
    bytes_n: NDArray[np.int64]
    names: PackedNames

    def read(self, index: int) -> bytes:
        """The bytes of member `index`. Safe from several threads."""
        with self.tars[int(self.tar_n[index])].open("rb") as file:
            return os.pread(file.fileno(), int(self.bytes_n[index]), int(self.offset_n[index]))


def open_index(tars: Sequence[Path], suffixes: frozenset[str]) -> TarIndex:
    """Every member with one of `suffixes` (lower case), tar by tar in their order inside it; tars within a tar are looked into.

    A member's name is `STEM/NAME`: the stem of the innermost tar and its own path without folders. What is known of a tar is kept
    in the cache and used as long as its path, size and time of change are the same. Raises DataError on a tar that is damaged,
    compressed or cut short.
    """
    assert len(tars) <= np.iinfo(np.uint16).max + 1
    with progress(len(tars), "tar index", unit="tars") as bar, ThreadPoolExecutor(_THREADS) as pool:
        pieces = []
        for piece in pool.map(lambda tar: _piece(tar, suffixes), tars):
            pieces.append(piece)
            bar.advance()
    counts = [len(piece.offset_n) for piece in pieces]
    lengths = [np.diff(piece.names.ends_n, prepend=0) for piece in pieces]
    names = PackedNames(np.concatenate([piece.names.text for piece in pieces]), np.cumsum(np.concatenate(lengths)))
    return TarIndex(
        list(tars),
        np.repeat(np.arange(len(tars), dtype=np.uint16), counts),
        np.concatenate([piece.offset_n for piece in pieces]),
        np.concatenate([piece.bytes_n for piece in pieces]),
        names,
    )


def members(file: int, start: int, end: int, where: str) -> Iterator[Member]:
    """Plain files of the tar that fills bytes `start` to `end` of an open file. Raises DataError, which names `where`."""
    position, name, size = start, None, None
    while True:
        if position + _BLOCK > end:
            raise DataError(f"{where}: cut short, its end mark is missing; fetch it again")
        header = os.pread(file, _BLOCK, position)
        if not header.strip(b"\0"):
            return
        declared = _size(header, where)
        kind, position = header[156:157], position + _BLOCK
        plain = kind in _PLAIN
        length = size if plain and size is not None else declared
        if position + length > end:
            raise DataError(f"{where}: cut short inside {name or _name(header)}; fetch it again")
        if kind == b"L":
            name = os.pread(file, length, position).rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind == b"x":
            name, size = _pax(os.pread(file, length, position), where)
        elif kind not in (b"K", b"g"):
            if plain:
                yield Member(name or _name(header), position, length)
            name, size = None, None
        position += -(-length // _BLOCK) * _BLOCK


class _Piece(NamedTuple):
    offset_n: NDArray[np.int64]
    bytes_n: NDArray[np.int64]
    names: PackedNames


def _piece(tar: Path, suffixes: frozenset[str]) -> _Piece:
    """The index of one tar, from the cache if it is there."""
    known = tar.stat()
    recipe = [_VERSION, str(tar.resolve()), known.st_size, known.st_mtime_ns, sorted(suffixes)]
    cached = cache_folder() / "tar-index" / f"{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:32]}.npz"
    if not cached.is_file():
        _write(cached, _scan(tar, suffixes))
    with np.load(cached) as arrays:
        return _Piece(arrays["offset"], arrays["bytes"], PackedNames(arrays["text"], arrays["ends"]))


def _scan(tar: Path, suffixes: frozenset[str]) -> _Piece:
    offsets, sizes = array("q"), array("q")
    with tar.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise DataError(f"{tar}: is compressed, and images inside cannot be read in place; unpack it with gunzip")
        names = PackedNames.of(_kept(file.fileno(), tar, suffixes, offsets, sizes))
    return _Piece(np.frombuffer(offsets, dtype=np.int64), np.frombuffer(sizes, dtype=np.int64), names)


def _kept(file: int, tar: Path, suffixes: frozenset[str], offsets: array[int], sizes: array[int]) -> Iterator[str]:
    """Names of the members that the index holds; where they lie is appended to `offsets` and `sizes`."""
    for stem, member in _walk(file, 0, os.fstat(file).st_size, str(tar)):
        path = PurePosixPath(member.name)
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            offsets.append(member.offset)
            sizes.append(member.bytes)
            yield f"{stem}/{path.name}"


def _walk(file: int, start: int, end: int, where: str) -> Iterator[tuple[str, Member]]:
    """Members of a tar and of the tars inside, with the stem of the tar that they lie in."""
    stem = PurePosixPath(where).stem
    for member in members(file, start, end, where):
        if member.name.endswith(".tar"):
            yield from _walk(file, member.offset, member.offset + member.bytes, f"{where}/{member.name}")
        else:
            yield stem, member


def _write(path: Path, piece: _Piece) -> None:
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, offset=piece.offset_n, bytes=piece.bytes_n, text=piece.names.text, ends=piece.names.ends_n)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); set MUDIT_CACHE to another folder") from error


def _size(header: bytes, where: str) -> int:
    """Bytes that the header declares. Raises DataError unless its checksum is right."""
    try:
        declared = int(header[_CHECKSUM].split(b"\0")[0] or b"0", 8)
    except ValueError:
        declared = -1
    if declared != sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" "):
        raise DataError(f"{where}: not a tar, or damaged; fetch it again")
    field = header[124:136]
    if field[0] & 0x80:  # GNU's form of sizes from 8 GiB
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b"\0 ") or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345] != 0:
        name = header[345:500].split(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _pax(records: bytes, where: str) -> tuple[str | None, int | None]:
    """Path and size among the records ("length key=value") of an extended header, where it has them."""
    found: dict[bytes, bytes] = {}
    while records:
        digits, _, _ = records.partition(b" ")
        if not digits.isdigit() or not 0 < int(digits) <= len(records):
            raise DataError(f"{where}: damaged extended header; fetch it again")
        key, _, value = records[len(digits) + 1 : int(digits) - 1].partition(b"=")
        found[key] = value
        records = records[int(digits) :]
    path, size = found.get(b"path"), found.get(b"size")
    if size is not None and not (size.isdigit() and len(size) < 20):
        raise DataError(f"{where}: damaged extended header; fetch it again")
    return None if path is None else path.decode("utf-8", "surrogateescape"), None if size is None else int(size)
