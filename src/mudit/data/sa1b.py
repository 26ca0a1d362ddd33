"""SA-1B from the tars that it is published as, with captions from elsewhere (LLaVA's, as published PixArt-α uses).

Legend: n images.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mudit.config.data import SA1BSource
from mudit.data.caption_table import CaptionTable, number_of
from mudit.data.images import MissingCaptionError, read_image
from mudit.data.names import LazyNames, listing_sha256
from mudit.data.sources import Source
from mudit.data.tars import open_index
from mudit.errors import DataError

_SUFFIXES = frozenset({".jpg", ".jpeg"})


class SA1B(Source):
    """Every `sa_N.jpg` of the tars, in the order of N whatever tar it lies in; the masks beside them are not read."""

    has_captions = True

    def __init__(self, section: SA1BSource, image_size: int) -> None:
        """Raises DataError or ConfigError on tars or captions that are not there, are damaged or do not belong together."""
        path = Path(section.path)
        tars = sorted(path.glob("sa_*.tar")) if path.is_dir() else []
        if not tars:
            raise DataError(f"data.source.path {path}: no sa_*.tar files; it must be the folder of SA-1B's tars")
        self._index = open_index(tars, _SUFFIXES)
        numbers_n = self._numbers(path)
        self._place_n = np.argsort(numbers_n, kind="stable")
        self._numbers_n = numbers_n[self._place_n]
        self._check_unique(path)
        self._captions = CaptionTable(Path(section.captions), section.id_column, section.caption_column)
        captioned_n = np.isin(self._numbers_n, self._captions.ids_m, assume_unique=True)
        matched = int(captioned_n.sum())
        if not matched:
            raise DataError(
                f"data.source.captions {section.captions}: none is of an image in {path} (sa_{self._captions.ids_m[0]}, and there "
                f"sa_{self._numbers_n[0]}); name captions of these images"
            )
        self._image_size = image_size
        self._captionless = np.flatnonzero(~captioned_n)
        self.unused_captions = len(self._captions.ids_m) - matched + self._captions.others
        self.class_names = ["all"]
        self.names = _Names(self._numbers_n)
        self.labels_n = np.zeros(len(self._numbers_n), dtype=np.int64)
        self.identity = {
            "name": "sa-1b",
            "images": len(self._numbers_n),
            "listing_sha256": listing_sha256(path, tars),
            "captions": len(self._captions.ids_m),
        }

    def read(self, index: int) -> NDArray[np.float32]:
        return read_image(io.BytesIO(self._index.read(int(self._place_n[index]))), self._image_size)

    def caption(self, index: int) -> str:
        place = self._captions.find(int(self._numbers_n[index]))
        text = "" if place is None else self._captions.caption(place).strip()
        if not text:
            raise MissingCaptionError("no caption")
        return text

    def captionless(self) -> NDArray[np.int64]:
        return self._captionless

    def _numbers(self, path: Path) -> NDArray[np.int64]:
        """N of each image. Raises DataError on another name."""
        numbers_n = np.empty(len(self._index.names), dtype=np.int64)
        for place, name in enumerate(self._index.names):
            number = number_of(name)
            if number is None:
                raise DataError(f"data.source.path {path}: {name} is not named sa_NUMBER.jpg; remove tars that are not SA-1B's")
            numbers_n[place] = number
        if not len(numbers_n):
            raise DataError(f"data.source.path {path}: no images in the tars ({', '.join(sorted(_SUFFIXES))})")
        return numbers_n

    def _check_unique(self, path: Path) -> None:
        twice = self._numbers_n[1:][self._numbers_n[1:] == self._numbers_n[:-1]]
        if len(twice):
            raise DataError(f"data.source.path {path}: sa_{twice[0]}.jpg lies in two places; remove one of the tars")


class _Names(LazyNames):
    """`sa_N`."""

    def __init__(self, numbers_n: NDArray[np.int64]) -> None:
        self._numbers_n = numbers_n

    def __len__(self) -> int:
        return len(self._numbers_n)

    def _name(self, index: int) -> str:
        return f"sa_{self._numbers_n[index]}"
