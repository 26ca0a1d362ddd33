"""Images for the page, as PNG data: a class per column for labels; for captions, what each run made of the same prompts.

Shapes: N images, C channels, H W height and width in pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_COLUMNS, _ROWS = 10, 5
_CELL, _GAP = 32, 3  # pixels: small images are enlarged by whole pixels up to a cell, large ones reduced to twice a cell
_PROMPTS = 12


@dataclass(frozen=True)
class PromptSheet:
    """The same held-out prompts, drawn by several. `rows`: name -> one data URI per caption."""

    captions: list[str]
    rows: dict[str, list[str]]


def generated_sheet(folder: Path, num_classes: int) -> str:
    """Data URI from the artefact of the stage `sample`."""
    from mudit.evaluate.samples import open_sets

    samples = open_sets(folder)[-1]
    numbers_N = _first_of_each(samples.labels_N, num_classes)
    return _sheet(samples.picked(numbers_N), samples.labels_N[numbers_N], num_classes)


def real_sheet(folder: Path, num_classes: int) -> str:
    """Data URI of held-out images from the artefact of the stage `data`."""
    import torch

    from mudit.data.reader import LatentStore

    store = LatentStore.open(folder)
    split = store.split("validation")
    labels_N = split.labels(torch.arange(len(split)))
    numbers_N = _first_of_each(labels_N, num_classes)
    return _sheet(store.encoder().decode(split.latents(numbers_N)), labels_N[numbers_N], num_classes)


def prompt_sheet(data: Path, runs: Mapping[str, Path]) -> PromptSheet:
    """A fixed choice of held-out prompts, evenly spaced over those that were drawn: real images first, then a row per run.

    data: artefact of the stage `data`; runs: name -> artefact of the stage `sample` of a text model.
    """
    import torch

    from mudit.data.reader import LatentStore
    from mudit.evaluate.samples import open_sets

    store = LatentStore.open(data)
    split = store.split("validation")
    sets = {name: open_sets(folder)[-1] for name, folder in runs.items()}
    count = min([len(split), *map(len, sets.values())])
    shown = min(_PROMPTS, count)
    numbers_N = torch.arange(shown) * count // shown  # image i was drawn for caption i
    rows = {"real, held out": _uris(store.encoder().decode(split.latents(numbers_N)))}
    rows |= {name: _uris(samples.picked(numbers_N)) for name, samples in sets.items()}
    return PromptSheet(split.captions(numbers_N), rows)


def _uris(images_NCHW: Tensor) -> list[str]:
    return [_data_uri(_picture(image_CHW, min(image_CHW.shape[-1], 2 * _CELL))) for image_CHW in images_NCHW]


def _first_of_each(labels_N: Tensor, num_classes: int) -> Tensor:
    """Numbers of the first images of each class that is shown."""
    from mudit.evaluate.sheets import first_of_classes

    return first_of_classes(labels_N, num_classes, _ROWS)


def _columns(num_classes: int) -> Sequence[int]:
    return range(min(_COLUMNS, num_classes))


def _sheet(images_NCHW: Tensor, labels_N: Tensor, num_classes: int) -> str:
    from PIL import Image

    side = images_NCHW.shape[-1]
    cell = side * (_CELL // side) if side <= _CELL else min(side, 2 * _CELL)
    columns, step = _columns(num_classes), cell + _GAP
    sheet = Image.new("RGBA", (len(columns) * step - _GAP, _ROWS * step - _GAP))
    for column in columns:
        chosen_NCHW = images_NCHW[labels_N == column][:_ROWS]
        for row, image_CHW in enumerate(chosen_NCHW):
            sheet.paste(_picture(image_CHW, cell), (column * step, row * step))
    return _data_uri(sheet)


def _picture(image_CHW: Tensor, cell: int) -> Image:
    """uint8 [C, H, W] with one channel or three, at `cell` pixels: whole pixels if it grows, smoothed if it shrinks."""
    from PIL import Image

    rgb_HWC = image_CHW.expand(3, -1, -1).permute(1, 2, 0).numpy()
    resampling = Image.Resampling.NEAREST if image_CHW.shape[-1] <= cell else Image.Resampling.LANCZOS
    return Image.fromarray(rgb_HWC).resize((cell, cell), resampling)


def _data_uri(picture: Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
