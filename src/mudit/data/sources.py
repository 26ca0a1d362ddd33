"""Where images come from: scikit-learn's digits, or a folder with one sub-folder per class.

Shapes: C channels, H W height and width. Every image leaves here as float32 [C, H, W] in [-1, 1].
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mudit.config.schema import DataSection
from mudit.errors import ConfigError, DataError
from mudit.random import permutation

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


class UnreadableImageError(Exception):
    """One image cannot be decoded. Caught by the writer, which counts it."""


class Source(Protocol):
    """A finite, ordered set of labelled images."""

    identity: dict[str, str | int]
    channels: int
    class_names: list[str]
    names: list[str]
    labels_N: NDArray[np.int64]

    def read(self, index: int) -> NDArray[np.float32]:
        """Image `index` as float32 [C, H, W] in [-1, 1]. Raises UnreadableImageError."""
        ...


class SklearnDigits:
    """1,797 scanned handwritten digits, 8x8 grey with 17 levels, from the UCI set inside the scikit-learn wheel."""

    channels = 1

    def __init__(self, image_size: int) -> None:
        from sklearn.datasets import load_digits  # slow import

        if image_size != 8:
            raise ConfigError(f"data.image_size {image_size}: the digits are 8x8; set it to 8")
        digits = load_digits()
        self._images_NHW = digits.images
        self.labels_N = digits.target.astype(np.int64)
        self.class_names = [str(name) for name in digits.target_names]
        self.names = [f"digit-{index:04d}" for index in range(len(self.labels_N))]
        self.identity: dict[str, str | int] = {
            "name": "sklearn-digits",
            "images": len(self.labels_N),
            "sha256": _sha256(self._images_NHW.tobytes()),
        }

    def read(self, index: int) -> NDArray[np.float32]:
        image_CHW: NDArray[np.float32] = (self._images_NHW[index] / 8.0 - 1.0).astype(np.float32)[None]
        return image_CHW


class ImageFolder:
    """`path/CLASS/any/depth/IMAGE`: classes are the sub-folders in sorted order, images are RGB, centre-cropped to a square."""

    channels = 3

    def __init__(self, path: Path, image_size: int) -> None:
        layout = "one sub-folder of images per class, such as cats/1.png and dogs/1.png"
        if not path.is_dir():
            raise DataError(f"data.path {path}: no such folder; it must hold {layout}")
        folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not folders:
            raise DataError(f"data.path {path}: no class folders; it must hold {layout}")
        self._image_size = image_size
        self._files: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
            if not files:
                raise DataError(f"data.path {path}: class folder {folder.name} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
            self._files += files
            labels += [label] * len(files)
        self.class_names = [folder.name for folder in folders]
        self.names = [file.relative_to(path).as_posix() for file in self._files]
        self.labels_N = np.array(labels, dtype=np.int64)
        listing = "\n".join(f"{name}\t{file.stat().st_size}" for name, file in zip(self.names, self._files, strict=True))
        self.identity: dict[str, str | int] = {
            "name": "image-folder",
            "images": len(self.names),
            "listing_sha256": _sha256(listing.encode()),
        }

    def read(self, index: int) -> NDArray[np.float32]:
        try:
            with Image.open(self._files[index]) as image:
                rgb = image.convert("RGB")
        # PIL raises SyntaxError on some damaged PNG files; every kind means that this one image cannot be decoded.
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(str(error)) from error
        pixels_HWC = np.asarray(centre_crop(rgb, self._image_size), dtype=np.float32)
        return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1) / 127.5 - 1.0)


def open_source(data: DataSection) -> Source:
    """The source that the data section names. Raises ConfigError or DataError."""
    if data.source == "sklearn-digits":
        return SklearnDigits(data.image_size)
    if data.path is None:
        raise ConfigError("data.path is null; `image-folder` needs the folder that holds one sub-folder per class")
    return ImageFolder(Path(data.path), data.image_size)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Square centre crop of side `size` pixels, as ADM prepares ImageNet (Dhariwal & Nichol 2021, the published DiT data).

    A box filter halves the image while its shorter side stays at least twice the target, a bicubic filter does the rest:
    bicubic alone would alias on strong reductions.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    ratio = size / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def stratified_split(labels_N: NDArray[np.int64], held_out: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Image indices of `train` and `validation`, each in a seeded random order, validation with the class shares of the whole.

    Class quotas are rounded by largest remainder, so that exactly `held_out` images are held out. Raises DataError when that
    leaves nothing to train on.
    """
    total = len(labels_N)
    if held_out >= total:
        raise DataError(f"data.validation_images {held_out}: the source has {total} images; hold out fewer")
    order = permutation(seed, "split", 0, total).numpy()
    shares = np.bincount(labels_N) * held_out / total
    quotas = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(quotas - shares, kind="stable")
    quotas[by_remainder[: held_out - quotas.sum()]] += 1
    labels_in_order = labels_N[order]
    is_held_out = np.zeros(total, dtype=bool)
    for label, quota in enumerate(quotas):
        is_held_out[np.flatnonzero(labels_in_order == label)[:quota]] = True
    return {"train": order[~is_held_out], "validation": order[is_held_out]}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
