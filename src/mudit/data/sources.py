"""Where images come from: what every source offers, scikit-learn's digits, and a folder with one sub-folder per class.

Shapes: n images, C channels, H W height and width. Every image leaves here as float32 [C, H, W] in [-1, 1].
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mudit.config.data import DataSection, DatasetSource, DigitsSource, EmojiSource, ImageNetTarsSource, SA1BSource
from mudit.data.format import Identity
from mudit.data.images import IMAGE_SUFFIXES, read_image
from mudit.data.names import PackedNames, names_sha256
from mudit.data.split import stratified_split, subject_split
from mudit.errors import ConfigError, DataError


class Source(ABC):
    """A finite, ordered set of labelled images, perhaps with captions, perhaps of known subjects."""

    identity: Identity
    class_names: list[str]
    names: Sequence[str]
    labels_n: NDArray[np.int64]
    has_captions = False
    unused_captions = 0  # captions that belong to no image
    unlisted_images = 0  # images that the captions' own file does not name
    subject_names: list[str] | None = None
    subjects_n: NDArray[np.int64] | None = None

    @abstractmethod
    def read(self, index: int) -> NDArray[np.float32]:
        """Image `index` as float32 [C, H, W] in [-1, 1]. Raises UnreadableImageError."""

    def caption(self, index: int) -> str:
        """Caption of image `index`, where there are captions. Raises UnreadableImageError if this image has none."""
        raise AssertionError(f"{type(self).__name__} has no captions")

    def captionless(self) -> NDArray[np.int64]:
        """Images that are known to have no caption before one is read, ascending."""
        return np.empty(0, dtype=np.int64)

    def split(self, held_out: int, seed: int) -> dict[str, NDArray[np.int64]]:
        """Image indices of `train` and `validation`. Raises ConfigError or DataError on a number that cannot be held out."""
        if self.subjects_n is None:
            return stratified_split(self.labels_n, held_out, seed)
        return subject_split(self.subjects_n, held_out, seed)


class SklearnDigits(Source):
    """1,797 scanned handwritten digits, 8x8 grey with 17 levels, from the UCI set inside the scikit-learn wheel."""

    def __init__(self, image_size: int) -> None:
        from sklearn.datasets import load_digits  # slow import

        if image_size != 8:
            raise ConfigError(f"data.image_size {image_size}: the digits are 8x8; set it to 8")
        digits = load_digits()
        self._images_nHW = digits.images
        self.labels_n = digits.target.astype(np.int64)
        self.class_names = [str(name) for name in digits.target_names]
        self.names = [f"digit-{index:04d}" for index in range(len(self.labels_n))]
        self.identity = {
            "name": "sklearn-digits",
            "images": len(self.labels_n),
            "sha256": hashlib.sha256(self._images_nHW.tobytes()).hexdigest(),
        }

    def read(self, index: int) -> NDArray[np.float32]:
        image_CHW: NDArray[np.float32] = (self._images_nHW[index] / 8.0 - 1.0).astype(np.float32)[None]
        return image_CHW


class ClassFolders(Source):
    """`path/CLASS/any/depth/IMAGE`: classes are the sub-folders in sorted order, images are RGB, centre-cropped to a square.

    Folders are listed and no file is looked at before it is read: a million looks take an hour on a busy network file system.
    """

    def __init__(self, path: Path, image_size: int) -> None:
        layout = "one sub-folder of images per class, such as cats/1.png and dogs/1.png"
        if not path.is_dir():
            raise DataError(f"data.source.path {path}: no such folder; it must hold {layout}")
        folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not folders:
            raise DataError(f"data.source.path {path}: no class folders; it must hold {layout}")
        self._image_size, self._path = image_size, path
        counts: list[int] = []
        names = PackedNames.of(_listed(path, folders, counts))
        for folder, count in zip(folders, counts, strict=True):
            if not count:
                raise DataError(
                    f"data.source.path {path}: class folder {folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
                )
        self.class_names, self.names = folders, names
        self.labels_n = np.repeat(np.arange(len(folders), dtype=np.int64), counts)
        self.identity = {"name": "class-folders", "images": len(names), "names_sha256": names_sha256(names)}

    def read(self, index: int) -> NDArray[np.float32]:
        return read_image(self._path / self.names[index], self._image_size)


def open_source(data: DataSection) -> Source:
    """The images that the data section asks for. Raises ConfigError or DataError, also if captions are asked of what has none."""
    from mudit.data.subset import Subset

    source = _open(data)
    if data.captions is not None and not source.has_captions:
        name = "name their column in data.source.caption_column or " if isinstance(data.source, DatasetSource) else ""
        raise ConfigError(f"data.captions: the source {data.source.kind} has no captions; {name}set captions to null")
    return source if data.share == 1 else Subset(source, data.share, data.split_seed)


def _open(data: DataSection) -> Source:
    section = data.source
    if isinstance(section, DigitsSource):
        return SklearnDigits(data.image_size)
    if isinstance(section, EmojiSource):
        from mudit.data.emoji import Emoji

        return Emoji(section, data.image_size)
    if isinstance(section, DatasetSource):
        from mudit.data.own import open_dataset  # imports `datasets`, which is slow

        return open_dataset(section, data.image_size)
    if isinstance(section, ImageNetTarsSource):
        from mudit.data.imagenet import ImageNetTars

        return ImageNetTars(Path(section.path), data.image_size)
    if isinstance(section, SA1BSource):
        from mudit.data.sa1b import SA1B

        return SA1B(section, data.image_size)
    return ClassFolders(Path(section.path), data.image_size)


def _listed(path: Path, folders: list[str], counts: list[int]) -> Iterator[str]:
    """Names of the images of each class folder, sorted inside it, relative to `path`; appends how many each has."""
    for folder in folders:
        names = sorted(_below(path / folder, folder))
        counts.append(len(names))
        yield from names


def _below(folder: Path, name: str) -> Iterator[str]:
    """Names of the image files at any depth. Links to folders are not followed, as `Path.rglob` does not."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _below(folder / entry.name, f"{name}/{entry.name}")
            elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
                yield f"{name}/{entry.name}"


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth, in sorted order."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
