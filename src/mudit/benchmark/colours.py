"""Which colour has an object? CLIP's zero-shot choice among ten, of the object alone on grey (GenEval, Ghosh et al. 2023).

What is not the object is painted over, the picture is cut to the object's box, and its embedding compared with each colour's:
the mean of the embeddings of three sentences about the class, of length one.

Shapes: K colours, S common space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mudit.benchmark.clip import ClipScorer
from mudit.benchmark.geneval import Detection
from mudit.benchmark.questions import COLOURS

BACKGROUND = (153, 153, 153)  # published: #999
_SENTENCES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")


class ColourNamer:
    """Names colours of objects; keeps the sentences' embeddings of the classes that it met."""

    def __init__(self, clip: ClipScorer) -> None:
        self._clip = clip
        self._classes: dict[str, Tensor] = {}

    def of(self, image: Image.Image, objects: Sequence[Detection], name: str) -> list[str]:
        """The colour of each object of the class `name` in an image."""
        seen_NS = self._clip.see_pictures([alone(image, each) for each in objects])
        return [COLOURS[place] for place in (seen_NS @ self._colours(name).T).argmax(dim=1).tolist()]

    def _colours(self, name: str) -> Tensor:
        """[K, S]."""
        if name not in self._classes:
            sentences = [sentence.format(colour=colour, name=name) for colour in COLOURS for sentence in _SENTENCES]
            read_KTS = self._clip.read_texts(sentences).view(len(COLOURS), len(_SENTENCES), -1)
            self._classes[name] = F.normalize(read_KTS.mean(dim=1), dim=-1)
        return self._classes[name]


def alone(image: Image.Image, found: Detection) -> Image.Image:
    """An object on grey, cut to its box; at least a pixel of it, whatever the detector says."""
    if found.mask_HW is not None:
        grey = Image.new("RGB", image.size, BACKGROUND)
        image = Image.composite(image, grey, Image.fromarray(found.mask_HW.astype(np.uint8) * 255))
    left, top, right, bottom = (round(each) for each in found.box)
    left, top = min(max(left, 0), image.width - 1), min(max(top, 0), image.height - 1)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
