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


def test_adm_crop_by_hand_one_halving():
    """8x4 to 2: the box filter averages blocks of four once, nothing is left to scale, and columns 1 and 2 of four are central."""
    grey = np.repeat(np.repeat(np.array([[0, 40, 80, 120], [160, 200, 240, 20]]), 2, axis=0), 2, axis=1)
    grey[0, 2] += 4  # one pixel of the block of 40: its mean is 41
    image = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    assert np.asarray(centre_crop(image, 2))[:, :, 0].tolist() == [[41, 80], [200, 240]]


def test_adm_crop_by_hand_offsets_round_down():
    """5x2 to 2 and 2x5 to 2: three are too many, and one, not two, goes in front."""
    row = np.array([[10, 20, 30, 40, 50]] * 2, dtype=np.uint8)
    assert np.asarray(centre_crop(Image.fromarray(row).convert("RGB"), 2))[:, :, 0].tolist() == [[20, 30]] * 2
    assert np.asarray(centre_crop(Image.fromarray(row.T.copy()).convert("RGB"), 2))[:, :, 0].tolist() == [[20, 20], [30, 30]]


def test_adm_crop_halves_while_the_short_side_is_twice_the_target():
    """Nine of each side halve to four (the ninth is averaged in with weight 1/9 of a quarter), then four halve to two."""
    image = Image.fromarray(np.full((9, 9), 77, dtype=np.uint8)).convert("RGB")
    assert np.asarray(centre_crop(image, 2))[:, :, 0].tolist() == [[77, 77], [77, 77]]
    seen = []
    resize = Image.Image.resize

    def remember(self, size, resample):
        seen.append((size, resample))
        return resize(self, size, resample)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", remember)
        centre_crop(Image.new("RGB", (9, 14)), 2)
        centre_crop(Image.new("RGB", (3, 5)), 2)
    box, bicubic = Image.Resampling.BOX, Image.Resampling.BICUBIC
    # 14 / 9 of 2 is 3.11; 7 // 2 is 3. And 5 * 2/3 is 3.33.
    assert seen == [((4, 7), box), ((2, 3), box), ((2, 3), bicubic), ((2, 3), bicubic)]
