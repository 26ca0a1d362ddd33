"""Captions of millions of images by the image's number: text on disk, two arrays in memory.

Read once, in pieces, from Parquet, JSON lines, or a tar of one .txt per image (so SAM-LLaVA-Captions10M is published), and kept in
the cache. Columns are named as `datasets` shows such a tar: `__key__` and `txt`.

Legend: m captions.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mudit.data.tars import members
from mudit.errors import ConfigError, DataError
from mudit.files import cache_folder

KEY, TEXT = "__key__", "txt"
_NUMBER = re.compile(r"(?:sa_)?(\d{1,18})")  # what fits into 64 bits
_TARS = (".tar", ".tar.gz", ".tgz")
_KINDS = (".parquet", ".jsonl", *_TARS)
_VERSION = 1

Pair = tuple[str, str]


class CaptionTable:
    """Captions by number. `ids_m` is sorted and without repeats; `others` is how many captions had no number or a repeated one."""

    def __init__(self, path: Path, id_column: str, caption_column: str) -> None:
        """path: a file or a folder of files. Raises DataError or ConfigError if captions cannot be read from there."""
        files = _files(path)
        recipe = [_VERSION, id_column, caption_column]
        recipe += [f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
        folder = cache_folder() / "captions" / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:32]
        if not folder.is_dir():
            _make(folder, files, id_column, caption_column)
        self.ids_m: NDArray[np.int64] = np.load(folder / "ids.npy")
        self._starts_m, self._lengths_m = np.load(folder / "starts.npy"), np.load(folder / "lengths.npy")
        self.others = int(np.load(folder / "others.npy"))
        self._text = folder / "text"
        if not len(self.ids_m):
            raise DataError(
                f"data.source.captions {path}: no caption is of an image sa_NUMBER; check data.source.id_column {id_column!r}"
            )

    def find(self, number: int) -> int | None:
        """Place of an image's caption, None if it has none."""
        place = int(np.searchsorted(self.ids_m, number))
        return place if place < len(self.ids_m) and self.ids_m[place] == number else None

    def caption(self, place: int) -> str:
        """The caption at a place. Safe from several threads."""
        with self._text.open("rb") as file:
            return os.pread(file.fileno(), int(self._lengths_m[place]), int(self._starts_m[place])).decode("utf-8")


def number_of(name: str) -> int | None:
    """The number N of `sa_N`, `sa_N.jpg`, `folder/sa_N` or plain `N`; None for any other name, and beyond 18 digits."""
    path = PurePosixPath(name)
    found = _NUMBER.fullmatch(path.stem if path.suffix.lower() in (".jpg", ".jpeg", ".txt", ".json") else path.name)
    return int(found[1]) if found else None


def _files(path: Path) -> list[Path]:
    where = f"data.source.captions {path}"
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(_KINDS))
        if not files:
            raise DataError(f"{where}: no captions inside ({', '.join(_KINDS)})")
        return files
    if not path.is_file():
        raise DataError(f"{where}: no such file or folder")
    if not path.name.endswith(_KINDS):
        raise DataError(f"{where}: captions come as {', '.join(_KINDS)}")
    return [path]


def _make(folder: Path, files: list[Path], id_column: str, caption_column: str) -> None:
    """Reads all files into a folder of the cache, which appears whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            with (scratch / "text").open("wb") as text:
                _save(scratch, *_read(files, id_column, caption_column, text))
            try:
                scratch.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise somebody else made it meanwhile
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); set MUDIT_CACHE to another folder") from error


def _read(files: list[Path], id_column: str, caption_column: str, text: BinaryIO) -> tuple[array[int], array[int], int]:
    """Numbers and lengths in the order of `text`, and how many captions have no number."""
    ids, lengths, others = array("q"), array("q"), 0
    for file in files:
        for key, caption in _pairs(file, id_column, caption_column):
            number = number_of(key)
            if number is None:
                others += 1
                continue
            encoded = caption.encode("utf-8", "replace")
            text.write(encoded)
            ids.append(number)
            lengths.append(len(encoded))
    return ids, lengths, others


def _save(folder: Path, ids: array[int], lengths: array[int], others: int) -> None:
    lengths_m = np.frombuffer(lengths, dtype=np.int64)
    starts_m = np.cumsum(lengths_m) - lengths_m
    unique_m, first_m = np.unique(np.frombuffer(ids, dtype=np.int64), return_index=True)  # the first of a repeated number
    np.save(folder / "ids.npy", unique_m)
    np.save(folder / "starts.npy", starts_m[first_m])
    np.save(folder / "lengths.npy", lengths_m[first_m].astype(np.int32))
    np.save(folder / "others.npy", np.int64(others + len(ids) - len(unique_m)))


def _pairs(file: Path, id_column: str, caption_column: str) -> Iterator[Pair]:
    if file.name.endswith(".parquet"):
        return _parquet(file, id_column, caption_column)
    if file.name.endswith(".jsonl"):
        return _json_lines(file, id_column, caption_column)
    if (id_column, caption_column) != (KEY, TEXT):
        raise ConfigError(
            f"data.source: captions in a tar have the columns {KEY} and {TEXT}; set id_column and caption_column to them"
        )
    return _text_files(file)


def _parquet(file: Path, id_column: str, caption_column: str) -> Iterator[Pair]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        _check_columns(file, id_column, caption_column, list(table.schema_arrow.names))
        for batch in table.iter_batches(columns=[id_column, caption_column]):
            columns = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in (id_column, caption_column)]
            for key, caption in zip(*columns, strict=True):
                yield str(key), str(caption or "")
    except pyarrow.ArrowException as error:
        raise DataError(f"data.source.captions {file}: not a Parquet file, or damaged ({str(error).splitlines()[0]})") from error


def _json_lines(file: Path, id_column: str, caption_column: str) -> Iterator[Pair]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"data.source.captions {file}: line {number} is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"data.source.captions {file}: line {number} is no JSON object")
            _check_columns(file, id_column, caption_column, list(row))
            yield str(row[id_column]), str(row[caption_column] or "")


def _text_files(file: Path) -> Iterator[Pair]:
    """Names and contents of the .txt files of a tar, compressed or not."""
    if file.name.endswith(".tar"):
        with file.open("rb") as tar:
            for member in members(tar.fileno(), 0, file.stat().st_size, f"data.source.captions {file}"):
                if member.name.endswith(".txt"):
                    yield member.name, os.pread(tar.fileno(), member.bytes, member.offset).decode("utf-8", "replace")
        return
    try:
        with gzip.open(file) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                if entry.isreg() and entry.name.endswith(".txt"):
                    content = archive.extractfile(entry)
                    assert content is not None  # it is a regular file
                    yield entry.name, content.read().decode("utf-8", "replace")
                archive.members = []  # type: ignore[attr-defined]  # `tarfile` would keep them all
            while stream.read(1 << 20):  # to the checksum at the end, which tells a whole file from one that was cut
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"data.source.captions {file}: not a tar.gz, or cut short ({error}); fetch it again") from error


def _check_columns(file: Path, id_column: str, caption_column: str, columns: list[str]) -> None:
    for field, name in (("id_column", id_column), ("caption_column", caption_column)):
        if name not in columns:
            raise ConfigError(f"data.source.{field} {name!r}: no such column in {file}; there are {', '.join(columns)}")
