"""What image number i asks for: classes take turns for label models, held-out captions for text models.

Shapes: B batch, N images.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mudit import random
from mudit.config.models import ModelSection
from mudit.data.reader import LatentSplit, LatentStore
from mudit.diffusion.samplers import null_condition
from mudit.models.condition import Condition


class Prompt(NamedTuple):
    """Conditions of some images, and what to record of them."""

    condition: Condition
    null: Condition  # what guidance contrasts with
    labels_B: Tensor  # int64
    captions_B: Tensor | None  # int64, places in the validation split
    subjects_B: Tensor | None  # int64


class LabelPrompts:
    """Image i asks for class i mod K, so any run of images is balanced; with a seed, for the class that (seed, i) draws."""

    def __init__(self, num_classes: int, seed: int | None) -> None:
        self._num_classes, self._seed = num_classes, seed
        self.identity: dict[str, Any] = {"kind": "labels", "classes": num_classes}
        if seed is not None:
            self.identity["drawn_with"] = seed

    def of(self, numbers_B: Tensor) -> Prompt:
        """Conditions of the images with these numbers."""
        if self._seed is None:
            labels_B = numbers_B % self._num_classes
        else:
            labels_B = random.integers(self._seed, "sampled-label", 0, numbers_B, self._num_classes)
        return Prompt(labels_B, null_condition(labels_B, self._num_classes), labels_B, None, None)

    def texts(self, count: int) -> None:
        """Labels have no captions."""
        return


class CaptionPrompts:
    """Image i asks for caption i mod V of the V held-out ones, in store order."""

    def __init__(self, store: LatentStore) -> None:
        assert store.info.text is not None, "the store was checked against a text model"
        self._split: LatentSplit = store.split("validation")
        self._has_subjects = store.info.text.subjects is not None
        captions = self._split.captions(torch.arange(len(self._split)))
        self.identity: dict[str, Any] = {
            "kind": "captions",
            "split": "validation",
            "captions": len(captions),
            "sha256": hashlib.sha256(json.dumps(captions).encode()).hexdigest(),
            "text_encoders": store.info.text.encoders,
        }

    def of(self, numbers_B: Tensor) -> Prompt:
        """Conditions of the images with these numbers."""
        captions_B = numbers_B % len(self._split)
        condition = self._split.text(captions_B, torch.zeros(len(captions_B), dtype=torch.bool))
        subjects_B = self._split.subjects(captions_B) if self._has_subjects else None
        return Prompt(condition, null_condition(condition, None), self._split.labels(captions_B), captions_B, subjects_B)

    def texts(self, count: int) -> list[str]:
        """Captions of the first `count` images."""
        return self._split.captions(torch.arange(count) % len(self._split))


class Prompts(Protocol):
    """What a set of images asks for."""

    identity: dict[str, Any]  # JSON values that tell these prompts from others

    def of(self, numbers_B: Tensor) -> Prompt:
        """Conditions of the images with these numbers, int64 [B], on the CPU."""
        ...

    def texts(self, count: int) -> list[str] | None:
        """What the first `count` images ask for, if it is text."""
        ...


def make_prompts(store: LatentStore, model: ModelSection, label_seed: int | None) -> Prompts:
    """The prompts that the model understands. The store must fit the model (`LatentStore.check_fits`).

    label_seed: of classes that are drawn at random, as published; None: they take turns.
    """
    if model.conditioning == "text":
        return CaptionPrompts(store)
    num_classes: int = model.num_classes  # type: ignore[attr-defined]  # conditioning on labels means that there are classes
    return LabelPrompts(num_classes, label_seed)
