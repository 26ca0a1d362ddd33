"""From image files to arrays: decoding, white behind what is transparent, and the square centre crop."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


class UnreadableImageError(Exception):
    """One image cannot be used. Caught by the writer, which counts it."""


class MissingCaptionError(UnreadableImageError):
    """One image lacks its caption."""


def read_image(file: Path | BinaryIO, size: int) -> NDArray[np.float32]:
    """One image as float32 [3, size, size] in [-1, 1], centre-cropped. Raises UnreadableImageError."""
    try:
        with Image.open(file) as image:
            rgb = on_white(image)
    # PIL raises SyntaxError on some damaged PNG files; every kind means that this one image cannot be decoded.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(str(error)) from error
    pixels_HWC = np.asarray(centre_crop(rgb, size), dtype=np.float32)
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1) / 127.5 - 1.0)


def on_white(image: Image.Image) -> Image.Image:
    """RGB, with white where the image is transparent: the colours stored there are arbitrary."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


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
