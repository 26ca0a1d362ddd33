"""Pictures: what stands where, whole pixels, and captions that fit."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont

from mudit.evaluate import sheets

PAPER = (255, 255, 255)


def flat(count: int, side: int = 16, first: int = 0) -> torch.Tensor:
    """Images of one grey value each, RGB."""
    values = first + 5 * torch.arange(count, dtype=torch.uint8)
    return values[:, None, None, None].expand(count, 3, side, side).contiguous()


def test_caption_sheet_has_captions_below_images():
    captions = [f"a 3D emoji of a thing number {number}" for number in range(8)]
    picture = sheets.caption_sheet(flat(8), captions)
    step, block = 96 + 6, 96 + 2 * 6 + 3 * 13
    assert picture.size == (6 * step + 6, 2 * block + 6)
    assert picture.getpixel((6 + 1 * step + 48, 6 + 48)) == (5, 5, 5)
    assert picture.getpixel((6 + 1 * step + 48, 6 + block + 48)) == (35, 35, 35)  # number 7 is in the second row
    assert picture.getpixel((6 + 3 * step + 48, 6 + block + 48)) == PAPER
    assert picture.crop((6, 6 + 102, 6 + 96, 6 + block)).getextrema()[0][0] < 200  # there are letters


def test_captions_are_wrapped_and_cut():
    draw, font = ImageDraw.Draw(Image.new("RGB", (10, 10))), ImageFont.load_default(size=11)
    lines = sheets._wrapped("a flat emoji of a person with an unreasonably long description of what it shows", draw, font, 96)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(draw.textlength(line, font) <= 96 for line in lines)
    assert sheets._wrapped("a cat", draw, font, 96) == ["a cat"]
    assert sheets._wrapped("", draw, font, 96) == [""]


def test_large_images_keep_their_size():
    picture = sheets.caption_sheet(flat(2, side=128), ["one", "two"])
    assert picture.size[0] == 6 + 2 * (128 + 6)


def test_columns_show_their_class_whatever_the_order():
    labels_N = torch.tensor([2, 0, 2, 1, 0, 2])
    numbers_K = sheets.first_of_classes(labels_N, 3, rows=2)
    assert numbers_K.tolist() == [1, 4, 3, 0, 2]
    picture = sheets.class_sheet(flat(6)[numbers_K], labels_N[numbers_K], ["a", "b", "c"])
    cell = 16 * 4  # whole pixels
    shown = [
        picture.getpixel((6 + column * (cell + 6) + 5, 22 + 6 + row * (cell + 6) + 5)) for column, row in ((0, 1), (2, 0), (1, 1))
    ]
    assert shown == [(20, 20, 20), (0, 0, 0), PAPER]
