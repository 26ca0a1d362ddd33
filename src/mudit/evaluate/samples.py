"""Generated images on disk: the artefact of the stage `sample` is a folder with one folder per set.

`final/` is drawn from the last weights of a run, `step-0000400000/` from those that it had after so many steps (`train.snapshots`).
A set is

    samples-00000.safetensors ...   a shard: images and small columns, in image order
    sample.json                     everything that the images depend on, and the shards with their checksums
    captions.json                   the texts that were asked for, if they were texts
    grid.png                        the first of them

A shard holds whole batches up to `SHARD_BYTES`: some thousand images of 256 pixels, or all of a desk study. Nobody holds more than
one shard, neither who writes nor who reads.

Shapes: N images of a set, n of one shard, B of one batch, C channels, H W height and width in pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mudit.data.tensors import save_tensors
from mudit.errors import DataError
from mudit.evaluate.sheets import caption_sheet, class_sheet, first_of_classes
from mudit.files import sha256_file
from mudit.sizes import SHARD_BYTES

SETTINGS_FILE = "sample.json"
CAPTIONS_FILE = "captions.json"
GRID_FILE = "grid.png"
FINAL = "final"

_SHOWN = 24  # images with captions in the picture
_AGAIN = "make the samples again"


class Samples(NamedTuple):
    """Images of one batch. `finite_B` is false where the sampler left the number range; such an image is all zeros."""

    images_BCHW: Tensor  # uint8
    labels_B: Tensor  # int64, the class asked for; with captions, the class of the caption's own image
    seeds_B2: Tensor  # int64: seed and image number, which together fix the noise
    finite_B: Tensor  # bool
    captions_B: Tensor | None = None  # int64, which caption was asked for; None for label models
    subjects_B: Tensor | None = None  # int64, that caption's subject; None where subjects are unknown


# Names of the columns in the files.
_IMAGES, _LABELS, _SEEDS, _FINITE, _CAPTIONS, _SUBJECTS = "images", "labels", "seeds", "finite", "captions", "subjects"
_COLUMNS = (_IMAGES, _LABELS, _SEEDS, _FINITE, _CAPTIONS, _SUBJECTS)


class Shard(NamedTuple):
    """What `sample.json` says of one shard."""

    file: str
    images: int
    sha256: str


def save_samples(path: Path, batches: Sequence[Samples]) -> None:
    """Batches in order as one safetensors file, in one rename. Raises OSError."""
    columns = zip(_COLUMNS, zip(*batches, strict=True), strict=True)
    save_tensors({name: torch.cat(parts) for name, parts in columns if parts[0] is not None}, path)


def load_samples(path: Path) -> Samples:
    """Inverse of `save_samples`. Raises DataError on a damaged file."""
    with _opened(path) as file:
        there = set(file.keys())
        columns = [file.get_tensor(name) if name in there else None for name in _COLUMNS]
    return Samples._make(columns)


def images_per_shard(batch_size: int, image_bytes: int) -> int:
    """Images of a shard, whole batches of them."""
    return batch_size * max(1, SHARD_BYTES // (batch_size * image_bytes))


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"samples-{number:05d}.safetensors"


def set_name(step: int | None) -> str:
    """Folder of a set: of the weights after `step` steps, or (None) of the last ones."""
    return FINAL if step is None else f"step-{step:010d}"


def write_set(folder: Path, shards: Iterable[Shard], settings: dict[str, Any], captions: list[str] | None) -> None:
    """Complete a folder that has its shards: how they were made, what was asked for, and a picture of the first images.

    settings: JSON values; "class_names" names the columns of the picture where there are no captions.
    """
    described = {**settings, "shards": [shard._asdict() for shard in shards]}
    (folder / SETTINGS_FILE).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    samples = SampleSet(folder)
    if captions is None:
        numbers_N = first_of_classes(samples.labels_N, len(settings["class_names"]))
        picture = class_sheet(samples.picked(numbers_N), samples.labels_N[numbers_N], settings["class_names"])
    else:
        (folder / CAPTIONS_FILE).write_text(json.dumps(captions, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        picture = caption_sheet(samples.picked(torch.arange(min(_SHOWN, len(samples)))), captions[:_SHOWN])
    picture.save(folder / GRID_FILE, optimize=True)


class SampleSet:
    """One set of a finished artefact. Columns of all images are read when asked for, images a shard at a time.

    Everything raises DataError, one line, if a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        path = folder / SETTINGS_FILE
        try:
            self.settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self._shards = [Shard(**shard) for shard in self.settings["shards"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: describes no samples ({error}); {_AGAIN}") from error
        self._whole: set[int] = set()  # shards whose checksum was compared

    def __len__(self) -> int:
        return sum(shard.images for shard in self._shards)

    @property
    def step(self) -> int | None:
        """Optimizer steps behind the weights; None for a checkpoint from elsewhere that does not say."""
        step: int | None = self.settings.get("step")
        return step

    @property
    def images_sha256(self) -> str:
        """One checksum of all images: SHA-256 of those of the shards, hexadecimal, one after another."""
        return hashlib.sha256("".join(shard.sha256 for shard in self._shards).encode()).hexdigest()

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self._shards)

    @cached_property
    def labels_N(self) -> Tensor:  # noqa: N802  # the suffix is a shape
        """int64, the class asked for."""
        return self._column(_LABELS)

    @cached_property
    def seeds_N2(self) -> Tensor:  # noqa: N802  # the suffix is a shape
        """int64, seed and number of each image."""
        return self._column(_SEEDS)

    @cached_property
    def finite_N(self) -> Tensor:  # noqa: N802  # the suffix is a shape
        """bool, false for an image whose sampler left the number range."""
        return self._column(_FINITE)

    @cached_property
    def captions_N(self) -> Tensor | None:  # noqa: N802  # the suffix is a shape
        """int64, which caption was asked for; None for label models."""
        return self._column_if_there(_CAPTIONS)

    @cached_property
    def subjects_N(self) -> Tensor | None:  # noqa: N802  # the suffix is a shape
        """int64, that caption's subject; None where subjects are unknown."""
        return self._column_if_there(_SUBJECTS)

    def texts(self) -> list[str] | None:
        """The text asked for of each image; None for label models."""
        path = self.folder / CAPTIONS_FILE
        if not path.is_file():
            return None
        texts: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return texts

    def numbers(self, shard: int) -> range:
        """Which images a shard holds."""
        first = sum(each.images for each in self._shards[:shard])
        return range(first, first + self._shards[shard].images)

    def images(self, shard: int) -> Tensor:
        """uint8 [n, C, H, W], in image order."""
        entry, path = self._shards[shard], self.folder / self._shards[shard].file
        if shard not in self._whole:
            if not path.is_file():
                raise DataError(f"{path}: missing; {_AGAIN}")
            if sha256_file(path) != entry.sha256:
                raise DataError(f"{path}: differs from its checksum in {SETTINGS_FILE}; {_AGAIN}")
            self._whole.add(shard)
        with _opened(path) as file:
            images_nCHW: Tensor = file.get_tensor(_IMAGES)
        return images_nCHW

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images in order, uint8 [at most size, C, H, W]; no batch has images of two shards.

        Batches are copies, so that one that is kept does not keep a shard.
        """
        for shard in range(self.shards):
            yield from (batch_BCHW.clone() for batch_BCHW in self.images(shard).split(size))

    def picked(self, numbers_K: Tensor) -> Tensor:
        """The images with these numbers, uint8 [K, C, H, W], for a picture: read one by one, checksums not compared."""
        found: dict[int, Tensor] = {}
        for shard, entry in enumerate(self._shards):
            numbers = self.numbers(shard)
            wanted = [number for number in numbers_K.tolist() if number in numbers]
            if wanted:
                with _opened(self.folder / entry.file) as file:
                    images = file.get_slice(_IMAGES)
                    found |= {number: images[number - numbers.start : number - numbers.start + 1] for number in wanted}
        return torch.cat([found[number] for number in numbers_K.tolist()])

    def _column_if_there(self, name: str) -> Tensor | None:
        with _opened(self.folder / self._shards[0].file) as file:
            there = name in file.keys()  # noqa: SIM118  # a file, not a mapping
        return self._column(name) if there else None

    def _column(self, name: str) -> Tensor:
        parts = []
        for entry in self._shards:
            with _opened(self.folder / entry.file) as file:
                parts.append(file.get_tensor(name))
            if len(parts[-1]) != entry.images:
                raise DataError(
                    f"{self.folder / entry.file}: {len(parts[-1])} images, {SETTINGS_FILE} says {entry.images}; {_AGAIN}"
                )
        return torch.cat(parts)


def open_sets(folder: Path) -> list[SampleSet]:
    """The sets of an artefact of `sample`: snapshots by step, then the last weights. Raises DataError if that is missing."""
    names = sorted(path.name for path in folder.glob("step-*") if path.is_dir())
    return [SampleSet(folder / name) for name in [*names, FINAL]]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """`safe_open` whose complaints, and those of what is read inside, are one line."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: missing or damaged ({error}); {_AGAIN}") from error
