"""A latent store of captioned images made by hand: eight held-out subjects in two styles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mudit.config.schema import Experiment
from mudit.data.encoders import Identity
from mudit.data.sources import Source
from mudit.data.text import EncodedCaptions
from mudit.data.writer import StoreWriter
from support import changed

_SUBJECTS, STYLES, HELD_OUT = 24, ("noto", "fluent-3d"), 16


class Squares(Source):
    """Subject n in style s: a grey square."""

    has_captions = True

    def __init__(self, side: int) -> None:
        self._side = side
        self.class_names = list(STYLES)
        self.subject_names = [f"square {number}" for number in range(_SUBJECTS)]
        self.names = [f"{style}/{subject}" for subject in self.subject_names for style in STYLES]
        self.labels_n = np.tile(np.arange(2), _SUBJECTS)
        self.subjects_n = np.repeat(np.arange(_SUBJECTS), 2)
        self.identity = {"name": "squares", "images": len(self.names)}

    def read(self, index: int) -> NDArray[np.float32]:
        return np.full((3, self._side, self._side), index / len(self.names), dtype=np.float32)

    def caption(self, index: int) -> str:
        return f"a {STYLES[index % 2]} drawing of {self.subject_names[index // 2]}"


class Words:
    """Stands in for the text encoder."""

    identities = {"tokens": {"name": "words"}, "pooled": {"name": "words"}}  # noqa: RUF012

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def encode(self, captions: list[str]) -> EncodedCaptions:
        return EncodedCaptions([torch.ones(2, 4).half() for _ in captions], torch.ones(len(captions), 4), cut=0)


def write_store(config: Experiment, folder: Path) -> Path:
    """The artefact folder of the stage `data`."""
    out = folder / "store"
    out.mkdir()
    data = changed(config.data, validation_images=HELD_OUT, features=None)
    assert data.captions is not None
    text = Words(data.captions.max_tokens)
    StoreWriter(data, Squares(data.image_size), Identity(1.0), out, folder / "state", text).write(lambda images: None)  # type: ignore[arg-type]
    return out
