"""Decoding and cropping of single images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mudit.data.images import UnreadableImageError, centre_crop, on_white, read_image

from .conftest import drawing


@pytest.mark.parametrize("size", [(70, 40), (40, 70), (33, 33), (16, 90), (9, 12)])
def test_centre_crop_is_square_and_central(size):
    image = Image.new("RGB", size, (0, 0, 0))
    image.paste((255, 255, 255), (size[0] // 2, 0, size[0], size[1]))
    pixels = np.asarray(centre_crop(image, 16))
    assert pixels.shape == (16, 16, 3)
    assert pixels[:, :6].max() < 40
    assert pixels[:, 10:].min() > 215


def test_centre_crop_keeps_an_image_of_the_right_size():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(centre_crop(image, 16)), np.asarray(image))


def test_box_halving_averages_before_bicubic():
    """A checkerboard of single pixels must become grey, not alias."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    assert np.abs(np.asarray(centre_crop(Image.fromarray(board.astype(np.uint8)).convert("RGB"), 16)).astype(int) - 128).max() <= 1


def test_transparent_pixels_are_white_whatever_colour_they_hide():
    for image in (drawing(200, 8), drawing(200, 8).quantize(4)):
        pixels = np.asarray(on_white(image))
        assert (pixels[:, 4:] == 255).all()
        assert np.abs(pixels[:, :4].astype(int) - [200, 0, 0]).max() <= 8  # a palette of four colours rounds


def test_grey_with_transparency_and_sixteen_colours_decode():
    for mode in ("L", "LA", "P", "1", "CMYK"):
        image = Image.new("RGB", (20, 20), (255, 255, 255)).convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, "TIFF")
        buffer.seek(0)
        pixels = read_image(buffer, 8)
        assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.float32)
        assert (pixels == 1.0).all()


def test_bytes_that_are_no_image():
    with pytest.raises(UnreadableImageError):
        read_image(io.BytesIO(b"\x89PNG\r\n\x1a\n not really"), 8)
