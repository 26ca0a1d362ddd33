"""The artefact of the stage `prompts`: a benchmark's prompts, what a model reads of them, and the reference's side of its figures.

    prompts.json                 where they are from, encoders, references; digests of all of it
    items.json                   every prompt with its id: the list that a figure is of
    text-00000.safetensors ...   features (`mudit.benchmark.text_features`)
    reference.safetensors        for `fid-clip`: moments of the reference images' features, float64, and CLIP's embeddings of these
                                 images and of all prompts, float32

Shapes: N prompts, R reference images, B batch, D features, S CLIP's space.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mudit.benchmark.prompt_sets import Item
from mudit.benchmark.text_features import TextFeatures
from mudit.data.tensors import save_tensors
from mudit.diffusion.samplers import null_condition
from mudit.errors import DataError
from mudit.evaluate.frechet import Gaussian
from mudit.evaluate.prompts import Prompt
from mudit.files import sha256_file

INFO_FILE, ITEMS_FILE, REFERENCE_FILE = "prompts.json", "items.json", "reference.safetensors"


class RealImages(NamedTuple):
    """What the reference images give."""

    gaussian: Gaussian  # of the extractor's features
    images_RS: Tensor  # CLIP's embeddings
    places_R: Tensor  # int64, the prompt of each image
    prompts_NS: Tensor  # CLIP's embeddings of all prompts

    def save(self, folder: Path) -> None:
        """`reference.safetensors`."""
        moments = {name: torch.from_numpy(part) for name, part in self.gaussian._asdict().items()}
        clip = {"images_RS": self.images_RS, "places_R": self.places_R, "prompts_NS": self.prompts_NS}
        save_tensors(moments | clip, folder / REFERENCE_FILE)


def write_items(folder: Path, items: list[Item]) -> str:
    """`items.json`; returns its SHA-256."""
    text = json.dumps([item.to_json() for item in items], ensure_ascii=False, indent=0, sort_keys=True) + "\n"
    (folder / ITEMS_FILE).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


class PromptStore:
    """A finished artefact, as the prompts of a set of images: image i asks for prompt i // images_per_prompt."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError if the folder does not hold what its description says."""
        self._folder = folder
        try:
            self.info: dict[str, Any] = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
            self.per_prompt: int = self.info["images_per_prompt"]
            self._features = TextFeatures(folder, self.info["text"]["max_tokens"])
            names = ("benchmark", "source", "items_sha256", "images_per_prompt")
            self.identity: dict[str, Any] = {"kind": "benchmark", **{name: self.info[name] for name in names}}
            self.identity["text_encoders"] = self.info["text"]["encoders"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder / INFO_FILE}: missing or damaged ({error}); run `mudit prompts` again") from error
        if sha256_file(folder / ITEMS_FILE) != self.info["items_sha256"]:
            raise DataError(f"{folder / ITEMS_FILE}: not the prompts that {INFO_FILE} describes; run `mudit prompts` again")

    @cached_property
    def items(self) -> list[Item]:
        """All prompts."""
        return [Item.from_json(raw) for raw in json.loads((self._folder / ITEMS_FILE).read_text(encoding="utf-8"))]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def images(self) -> int:
        """Images of a whole run."""
        return len(self) * self.per_prompt

    def prompt_of(self, numbers_B: Tensor) -> Tensor:
        """Places of the prompts that images ask for, int64 [B]."""
        return numbers_B // self.per_prompt

    def of(self, numbers_B: Tensor) -> Prompt:
        """Conditions of the images with these numbers."""
        prompts_B = self.prompt_of(numbers_B)
        condition = self._features.of(prompts_B)
        return Prompt(condition, null_condition(condition, None), torch.zeros_like(prompts_B), prompts_B, None)

    def texts(self, count: int) -> list[str]:
        """Prompts of the first `count` images."""
        return [self.items[place].prompt for place in self.prompt_of(torch.arange(count)).tolist()]

    def real_images(self) -> RealImages:
        """Of a `fid-clip` benchmark. Raises DataError on a damaged file."""
        path = self._folder / REFERENCE_FILE
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: missing or damaged ({error}); run `mudit prompts` again") from error
        gaussian = Gaussian(tensors["mean_D"].numpy(), tensors["covariance_DD"].numpy())
        return RealImages(gaussian, tensors["images_RS"], tensors["places_R"], tensors["prompts_NS"])
