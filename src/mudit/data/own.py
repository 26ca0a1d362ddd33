"""Your own data: image folders, WebDataset tars and Parquet through Hugging Face `datasets`, and folders with a .txt per image.

Rows lie in memory-mapped Arrow files that `datasets` makes once in the cache, so reading one image touches that image only. For an
image folder these hold paths; for tars and Parquet they hold the images' bytes, so the cache needs as much disk as the data.
Nothing is ever looked up on a hub.
"""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mudit.config.data import DatasetSource
from mudit.data.format import Identity
from mudit.data.images import IMAGE_SUFFIXES, MissingCaptionError, UnreadableImageError, read_image
from mudit.data.names import LazyNames, listing_sha256
from mudit.data.sources import Source, image_files
from mudit.errors import ConfigError, DataError
from mudit.files import cache_folder

_LOG = logging.getLogger(__name__)
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet"}
_TEXT_TYPES, _NAME_TYPES = ("string", "large_string"), ("string", "large_string", "bool")


def open_dataset(source: DatasetSource, image_size: int) -> Source:
    """The source that a section describes. Raises ConfigError on columns that are not there, DataError on files that are not."""
    path = Path(source.path)
    if not path.is_dir():
        raise DataError(f"data.source.path {path}: no such folder")
    if source.kind != "imagefolder":
        suffix = _SUFFIXES[source.kind]
        files = sorted(file for file in path.rglob(f"*{suffix}") if file.is_file())
        if not files:
            raise DataError(f"data.source.path {path}: no {suffix} files")
        return TableSource(source, path, files, image_size)
    images = image_files(path)
    if not images:
        raise DataError(f"data.source.path {path}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    metadata = sorted(file for name in _METADATA for file in path.rglob(name))
    if not metadata and any(file.with_suffix(".txt").is_file() for file in images):
        return TextFileFolder(source, path, images, image_size)
    table = TableSource(source, path, images + metadata, image_size)
    if metadata:
        table.count_unlisted(images)
    return table


class TableSource(Source):
    """Rows of a table with an image column, and perhaps a caption column and a label column."""

    def __init__(self, source: DatasetSource, root: Path, files: list[Path], image_size: int) -> None:
        self._image_size, self._root = image_size, root
        table = _load(source.kind, root, files)
        _check_columns(source, list(table.column_names))
        self._image, self._caption = source.image_column, source.caption_column
        self.has_captions = self._caption is not None
        if self._caption is not None:
            _check_type(table, "caption_column", self._caption, _TEXT_TYPES)
        self.labels_n, self.class_names = _labels(table, source.label_column)
        # Undecoded images are bytes or a path, so that a damaged one fails alone, when it is read.
        self._rows = table.cast_column(self._image, datasets.Image(decode=False))
        self.names = _Names(self._rows, self._image, root)
        self.identity = _identity(source.kind, len(table), root, files)

    def read(self, index: int) -> NDArray[np.float32]:
        stored = self._rows[index][self._image] or {}
        if stored.get("bytes") is not None:
            return read_image(io.BytesIO(stored["bytes"]), self._image_size)
        if stored.get("path") is None:
            raise UnreadableImageError("no image in this row")
        return read_image(Path(stored["path"]), self._image_size)

    def count_unlisted(self, images: list[Path]) -> None:
        """Which of the folder's images are no rows, because no line of the metadata names them. Says so, and how many."""
        named = pc.struct_field(self._rows.data.column(self._image), "path").to_pylist()
        missing = sorted({str(image.resolve()) for image in images} - set(named))
        self.unlisted_images = len(missing)
        if missing:
            first = ", ".join(Path(each).relative_to(self._root.resolve()).as_posix() for each in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            _LOG.warning(
                "no line of the metadata names %d of %d images, which are left out: %s%s", len(missing), len(images), first, more
            )

    def caption(self, index: int) -> str:
        assert self._caption is not None
        caption: str | None = self._rows[index][self._caption]
        return _stripped(caption)


class TextFileFolder(Source):
    """Images with a .txt of the same stem beside each: columns `image`, `text`, and `label`, the name of the image's folder."""

    def __init__(self, source: DatasetSource, root: Path, files: list[Path], image_size: int) -> None:
        _check_columns(source, ["image", "text", "label"])
        if (
            source.image_column != "image"
            or source.caption_column not in ("text", None)
            or source.label_column not in ("label", None)
        ):
            raise ConfigError("data.source: in a folder with a .txt per image the columns are image, text and label, in that order")
        self._files, self._image_size = files, image_size
        self.has_captions = source.caption_column is not None
        self.names = [file.relative_to(root).as_posix() for file in files]
        folders = [file.parent.name if source.label_column else "all" for file in files]
        self.class_names = sorted(set(folders))
        self.labels_n = np.array([self.class_names.index(folder) for folder in folders], dtype=np.int64)
        self.identity = _identity("text-file-folder", len(files), root, files)

    def read(self, index: int) -> NDArray[np.float32]:
        return read_image(self._files[index], self._image_size)

    def caption(self, index: int) -> str:
        try:
            return _stripped(self._files[index].with_suffix(".txt").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise MissingCaptionError(str(error)) from error


class _Names(LazyNames):
    """Names of a table's images."""

    def __init__(self, rows: Any, column: str, root: Path) -> None:
        self._rows, self._column, self._root = rows, column, root

    def __len__(self) -> int:
        return len(self._rows)

    def _name(self, index: int) -> str:
        row = self._rows[index]
        name = row.get("__key__") or (row[self._column] or {}).get("path")
        if name is None:
            return f"row {index}"
        path = Path(name)
        return path.relative_to(self._root.resolve()).as_posix() if path.is_relative_to(self._root.resolve()) else path.as_posix()


def _load(kind: str, root: Path, files: list[Path]) -> Any:
    """All files as one table, whatever splits their names suggest."""
    datasets.config.HF_HUB_OFFLINE = True  # it counts its uses over the network otherwise
    datasets.disable_progress_bars()
    paths = [str(file.resolve()) for file in files]
    try:
        return datasets.load_dataset(kind, data_files={"train": paths}, split="train", cache_dir=str(cache_folder() / "datasets"))
    except (OSError, ValueError, KeyError, TypeError, tarfile.TarError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"data.source.path {root}: `datasets` cannot read it as {kind} ({reason[0]})") from error


def _check_columns(source: DatasetSource, columns: list[str]) -> None:
    for field in ("image_column", "caption_column", "label_column"):
        name = getattr(source, field)
        if name is not None and name not in columns:
            raise ConfigError(f"data.source.{field} {name!r}: no such column; there are {', '.join(columns)}")


def _check_type(table: Any, field: str, column: str, types: tuple[str, ...]) -> None:
    found = getattr(table.features[column], "dtype", None)
    if found not in types:
        raise ConfigError(f"data.source.{field} {column!r}: holds {table.features[column]}, not {' or '.join(types)}")


def _labels(table: Any, column: str | None) -> tuple[NDArray[np.int64], list[str]]:
    """Class of each row and the classes' names: the table's own, or the values in sorted order."""
    if column is None:
        return np.zeros(len(table), dtype=np.int64), ["all"]
    feature = table.features[column]
    values = table.data.column(column).to_pylist()
    missing = next((row for row, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise DataError(f"data.source.label_column {column!r}: row {missing} has no label; give every row one, or set it to null")
    if isinstance(feature, datasets.ClassLabel):
        return np.array(values, dtype=np.int64), list(feature.names)
    if not str(feature.dtype).startswith(("int", "uint")):
        _check_type(table, "label_column", column, (*_NAME_TYPES, "int64"))
    classes = sorted(set(values))
    place = {value: index for index, value in enumerate(classes)}
    return np.array([place[value] for value in values], dtype=np.int64), [str(value) for value in classes]


def _stripped(caption: str | None) -> str:
    text = (caption or "").strip()
    if not text:
        raise MissingCaptionError("no caption")
    return text


def _identity(kind: str, images: int, root: Path, files: list[Path]) -> Identity:
    return {"name": kind, "images": images, "listing_sha256": listing_sha256(root, files)}
