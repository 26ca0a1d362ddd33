"""Pictures of many images: a column per class, or captions under the images they ask for.

Small images are enlarged by whole pixels. Shapes: N images of a set, K of them in a picture, C channels, H W height and width in
pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_COLUMNS, _ROWS = 10, 6
_CELL, _GAP, _CAPTION = 56, 6, 22  # pixels of a class sheet
_WIDE, _LINE, _LINES = 96, 13, 3  # a caption sheet: pixels of a cell and of a line of text, lines
_PAPER, _INK = (255, 255, 255), (110, 110, 110)


def first_of_classes(labels_N: Tensor, num_classes: int, rows: int = _ROWS) -> Tensor:
    """Numbers of the first `rows` images of each of the first ten classes, int64, class by class."""
    columns = min(_COLUMNS, num_classes)
    return torch.cat([torch.nonzero(labels_N == label).flatten()[:rows] for label in range(columns)])


def class_sheet(images_KCHW: Tensor, labels_K: Tensor, class_names: list[str]) -> Image.Image:
    """Some images of each of the first ten classes, a class per column (see `first_of_classes`)."""
    columns = min(_COLUMNS, len(class_names))
    rows = max(1, *(int((labels_K == column).sum()) for column in range(columns)))
    cell = _enlarged(images_KCHW, _CELL)
    step = cell + _GAP
    picture = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP + _CAPTION), _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    for column in range(columns):
        left = _GAP + column * step
        draw.text((left + cell / 2, _CAPTION / 2 + 2), _shortened(class_names[column], draw, font, cell), _INK, font, anchor="mm")
        for row, image_CHW in enumerate(images_KCHW[labels_K == column]):
            picture.paste(_picture(image_CHW, cell), (left, _CAPTION + _GAP + row * step))
    return picture


def caption_sheet(images_NCHW: Tensor, captions: list[str], columns: int = 6) -> Image.Image:
    """Images in rows of `columns`, the caption of each below it."""
    cell = _enlarged(images_NCHW, _WIDE)
    step, block = max(cell, _WIDE) + _GAP, cell + 2 * _GAP + _LINES * _LINE
    columns = min(columns, len(captions))
    picture = Image.new("RGB", (columns * step + _GAP, -(-len(captions) // columns) * block + _GAP), _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=11)
    for number, caption in enumerate(captions):
        left, top = _GAP + number % columns * step, _GAP + number // columns * block
        picture.paste(_picture(images_NCHW[number], cell), (left + (step - _GAP - cell) // 2, top))
        for line, words in enumerate(_wrapped(caption, draw, font, step - _GAP)):
            draw.text((left + (step - _GAP) / 2, top + cell + _GAP + line * _LINE), words, _INK, font, anchor="ma")
    return picture


def _enlarged(images_NCHW: Tensor, cell: int) -> int:
    side: int = images_NCHW.shape[-1]
    return side * max(1, round(cell / side))


def _picture(image_CHW: Tensor, cell: int) -> Image.Image:
    rgb_CHW = image_CHW.expand(3, -1, -1) if image_CHW.shape[0] == 1 else image_CHW
    return Image.fromarray(rgb_CHW.permute(1, 2, 0).numpy()).resize((cell, cell), Image.Resampling.NEAREST)


def _wrapped(text: str, draw: ImageDraw.ImageDraw, font: Any, width: int) -> list[str]:
    """At most `_LINES` lines of words; what does not fit is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or draw.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [" ".join(lines[_LINES - 1 :])]
    return [_shortened(line, draw, font, width) for line in lines]


def _shortened(text: str, draw: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = text[:-2] + "…"
    return text
