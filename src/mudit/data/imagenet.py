"""ImageNet-1k from the tars that it is published as, without unpacking 1.28 million files."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mudit.data.images import IMAGE_SUFFIXES, read_image
from mudit.data.names import ChosenNames, listing_sha256
from mudit.data.sources import Source
from mudit.data.tars import open_index
from mudit.errors import DataError

_CLASS = re.compile(r"n\d{8}")  # a WordNet id


class ImageNetTars(Source):
    """`ILSVRC2012_img_train.tar`, or the folder of the class tars inside it. Classes are WordNet ids in sorted order.

    Images are in the order and under the names (`n01440764/n01440764_10026.JPEG`) of the unpacked tree, so that all three forms
    give the same store but for its note of the source.
    """

    def __init__(self, path: Path, image_size: int) -> None:
        """Raises DataError unless the tars hold images of classes."""
        if not path.exists():
            raise DataError(
                f"data.source.path {path}: no such file; it must be ILSVRC2012_img_train.tar or the folder of its class tars"
            )
        tars = sorted(file for file in path.glob("*.tar") if _CLASS.fullmatch(file.stem)) if path.is_dir() else [path]
        if not tars:
            raise DataError(f"data.source.path {path}: no class tars such as n01440764.tar")
        self._index = open_index(tars, IMAGE_SUFFIXES)
        names = np.array(list(self._index.names), dtype=np.str_)
        classes_n = np.array([name.partition("/")[0] for name in names], dtype=np.str_)
        if not len(names):
            raise DataError(f"data.source.path {path}: no images inside ({', '.join(sorted(IMAGE_SUFFIXES))})")
        found, labels_n = np.unique(classes_n, return_inverse=True)
        other = next((name for name in found if not _CLASS.fullmatch(name)), None)
        if other is not None:
            raise DataError(f"data.source.path {path}: {other} is no WordNet id; it must hold class tars such as n01440764.tar")
        self._place_n = np.argsort(names, kind="stable")
        self._image_size = image_size
        self.class_names = [str(name) for name in found]
        self.labels_n = labels_n[self._place_n].astype(np.int64)
        self.names = ChosenNames(self._index.names, self._place_n)
        root = path if path.is_dir() else path.parent
        self.identity = {"name": "imagenet-tars", "images": len(names), "listing_sha256": listing_sha256(root, tars)}

    def read(self, index: int) -> NDArray[np.float32]:
        return read_image(io.BytesIO(self._index.read(int(self._place_n[index]))), self._image_size)
