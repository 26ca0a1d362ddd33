"""The artefact of the stage `sample`: `samples.safetensors`, `sample.json`, `grid.png`.

Shapes: N images, C channels, H W height and width in pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file
from torch import Tensor

from mudit.data.tensors import save_tensors

SAMPLES_FILE = "samples.safetensors"
SETTINGS_FILE = "sample.json"
GRID_FILE = "grid.png"

_COLUMNS, _ROWS = 10, 6
_CELL, _GAP, _CAPTION = 56, 6, 22  # pixels of the picture
_PAPER, _INK = (255, 255, 255), (110, 110, 110)


class Samples(NamedTuple):
    """Generated images. `finite_N` is false where the sampler left the number range; such an image is all zeros."""

    images_NCHW: Tensor  # uint8
    labels_N: Tensor  # int64, the class asked for
    seeds_N2: Tensor  # int64: seed and image number, which together fix the noise
    finite_N: Tensor  # bool


def balanced_labels(numbers_B: Tensor, num_classes: int) -> Tensor:
    """Class of each image number: classes take turns, so any run of images is balanced."""
    return numbers_B % num_classes


def concatenate(parts: list[Samples]) -> Samples:
    """Batches in order."""
    return Samples(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def save_samples(path: Path, samples: Samples) -> None:
    """One safetensors file, in one rename."""
    save_tensors(samples._asdict(), path)


def load_samples(path: Path) -> Samples:
    """Inverse of `save_samples`."""
    return Samples(**load_file(path))


def write_artefact(folder: Path, samples: Samples, settings: dict[str, Any]) -> None:
    """Images, how they were made, and a picture of the first of them."""
    save_samples(folder / SAMPLES_FILE, samples)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    grid(samples, settings["class_names"]).save(folder / GRID_FILE, optimize=True)


def load_artefact(folder: Path) -> tuple[Samples, dict[str, Any]]:
    """Images and settings of a finished `sample`."""
    return load_samples(folder / SAMPLES_FILE), json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))


def grid(samples: Samples, class_names: list[str]) -> Image.Image:
    """The first images of each of the first ten classes: a class per column, small images enlarged by whole pixels."""
    num_classes = len(class_names)
    columns = min(_COLUMNS, num_classes)
    rows = min(_ROWS, len(samples.labels_N) // num_classes) or 1
    side = samples.images_NCHW.shape[-1]
    cell = side * max(1, round(_CELL / side))
    step = cell + _GAP
    picture = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP + _CAPTION), _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    for column in range(columns):
        left = _GAP + column * step
        draw.text((left + cell / 2, _CAPTION / 2 + 2), _shortened(class_names[column], draw, font, cell), _INK, font, anchor="mm")
        for row in range(rows):
            number = row * num_classes + column
            if number < len(samples.labels_N):
                image = _picture_of(samples.images_NCHW[number]).resize((cell, cell), Image.Resampling.NEAREST)
                picture.paste(image, (left, _CAPTION + _GAP + row * step))
    return picture


def _picture_of(image_CHW: Tensor) -> Image.Image:
    rgb_CHW = image_CHW.expand(3, -1, -1) if image_CHW.shape[0] == 1 else image_CHW
    return Image.fromarray(rgb_CHW.permute(1, 2, 0).numpy())


def _shortened(text: str, draw: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = text[:-2] + "…"
    return text
