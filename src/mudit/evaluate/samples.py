"""The artefact of the stage `sample`: `samples.safetensors`, `sample.json`, `grid.png`, and `captions.json` for text models.

Shapes: N images, C channels, H W height and width in pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from mudit.data.tensors import save_tensors
from mudit.evaluate.sheets import caption_sheet, class_sheet

SAMPLES_FILE = "samples.safetensors"
SETTINGS_FILE = "sample.json"
CAPTIONS_FILE = "captions.json"
GRID_FILE = "grid.png"

_SHOWN = 24  # images with captions in the picture


class Samples(NamedTuple):
    """Generated images. `finite_N` is false where the sampler left the number range; such an image is all zeros."""

    images_NCHW: Tensor  # uint8
    labels_N: Tensor  # int64, the class asked for; with captions, the class of the caption's own image
    seeds_N2: Tensor  # int64: seed and image number, which together fix the noise
    finite_N: Tensor  # bool
    captions_N: Tensor | None = None  # int64, place in the validation split of the caption asked for; None for label models
    subjects_N: Tensor | None = None  # int64, that caption's subject; None where the store knows no subjects


def concatenate(parts: list[Samples]) -> Samples:
    """Batches in order."""
    columns = zip(Samples._fields, zip(*parts, strict=True), strict=True)
    return Samples(**{name: torch.cat(tensors) for name, tensors in columns if tensors[0] is not None})


def save_samples(path: Path, samples: Samples) -> None:
    """One safetensors file, in one rename."""
    save_tensors({name: tensor for name, tensor in samples._asdict().items() if tensor is not None}, path)


def load_samples(path: Path) -> Samples:
    """Inverse of `save_samples`."""
    return Samples(**load_file(path))


def write_artefact(folder: Path, samples: Samples, settings: dict[str, Any], captions: list[str] | None) -> None:
    """Images, how they were made, what was asked for, and a picture of the first of them."""
    save_samples(folder / SAMPLES_FILE, samples)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if captions is None:
        picture = class_sheet(samples.images_NCHW, samples.labels_N, settings["class_names"])
    else:
        (folder / CAPTIONS_FILE).write_text(json.dumps(captions, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        picture = caption_sheet(samples.images_NCHW[:_SHOWN], captions[:_SHOWN])
    picture.save(folder / GRID_FILE, optimize=True)


def load_artefact(folder: Path) -> tuple[Samples, dict[str, Any]]:
    """Images and settings of a finished `sample`."""
    return load_samples(folder / SAMPLES_FILE), json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
