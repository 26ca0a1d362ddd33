"""Objects in images by Mask2Former (Cheng et al. 2022) from a local folder of `transformers`, without mmdet.

Instances are read off as the published detector of GenEval does: of all pairs of query and class the most confident by softmax,
each with its confidence times the mean probability inside its mask, and the box around the mask. Names follow GenEval where COCO's
are ambiguous.

Shapes: B images, Q queries, K classes, C channels, H W height and width in pixels, h w of the masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mudit.benchmark.geneval import Box, Detection
from mudit.config.benchmarks import DetectorSection
from mudit.data.pretrained import folder_sha256, load_network
from mudit.errors import DataError
from mudit.train.device import compute_device, matmul_precision

# COCO's name -> what GenEval's prompts call it; then the names of COCO's classes that some published models have.
RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
RENAMED |= {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv"}
RENAMED |= {"pottedplant": "potted plant", "diningtable": "dining table"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DIVISOR = 32  # of the input's sides


class Detector(Protocol):
    """Finds objects of known classes."""

    identity: dict[str, Any]
    classes: frozenset[str]

    def detect(self, images_BCHW: Tensor) -> list[list[Detection]]:
        """Of each uint8 RGB image, in any order."""
        ...


class Mask2Former:
    """One detector."""

    def __init__(self, section: DetectorSection, where: str) -> None:
        """where: the name of the section, for messages. Raises DataError on a folder that holds no such model."""
        from transformers import Mask2FormerForUniversalSegmentation  # slow import

        folder = Path(section.path)
        network: Any = load_network(Mask2FormerForUniversalSegmentation, folder, f"{where}.path", ("mask2former",))
        self._place = compute_device()
        self._network, self._section = network.to(self._place), section
        labels = {int(place): geneval_name(str(name)) for place, name in network.config.id2label.items()}
        if sorted(labels) != list(range(len(labels))):
            raise DataError(f"{where}.path {folder}: config.json: id2label has gaps; take the model as published")
        self._names = [labels[place] for place in range(len(labels))]
        self.classes = frozenset(self._names)
        settings = section.model_dump(mode="json", exclude={"path"})
        self.identity: dict[str, Any] = {"name": "mask2former", "sha256": folder_sha256(folder), **settings}

    @torch.inference_mode()
    def detect(self, images_BCHW: Tensor) -> list[list[Detection]]:
        """Of each uint8 image, all of one size, most confident first."""
        pixels_BCHW = self._prepared(images_BCHW.to(self._place))
        with matmul_precision("fp32", self._place):
            output = self._network(pixel_values=pixels_BCHW)
        height, width = images_BCHW.shape[-2:]
        sizes = _Sizes(tuple(pixels_BCHW.shape[-2:]), self._enlarged(height, width), (height, width))
        return [
            self._instances(classes_QK, masks_Qhw, sizes)
            for classes_QK, masks_Qhw in zip(output.class_queries_logits.float(), output.masks_queries_logits.float(), strict=True)
        ]

    def _enlarged(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is given."""
        short, long = sorted((height, width))
        ratio = min(self._section.short_side / short, self._section.long_side / long)
        return round(height * ratio), round(width * ratio)

    def _prepared(self, images_BCHW: Tensor) -> Tensor:
        """The network's input: enlarged, standardised, zeros below and to the right."""
        rgb_BCHW = images_BCHW.expand(-1, 3, -1, -1).float()
        height, width = self._enlarged(*images_BCHW.shape[-2:])
        resized_BCHW = F.interpolate(rgb_BCHW, (height, width), mode="bilinear", antialias=True) / 255
        mean_C11, std_C11 = (torch.tensor(each, device=self._place)[:, None, None] for each in (_MEAN, _STD))
        return F.pad((resized_BCHW - mean_C11) / std_C11, (0, -width % _DIVISOR, 0, -height % _DIVISOR))

    def _instances(self, classes_QK: Tensor, masks_Qhw: Tensor, sizes: _Sizes) -> list[Detection]:
        confidence_QK = classes_QK.softmax(dim=-1)[:, :-1]  # the last class is "nothing"
        best = confidence_QK.flatten().topk(min(self._section.detections, confidence_QK.numel()))
        found = [
            self._instance(score, place, masks_Qhw, sizes)
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        return sorted((each for each in found if each is not None), key=lambda each: -each.score)

    def _instance(self, score: float, place: int, masks_Qhw: Tensor, sizes: _Sizes) -> Detection | None:
        """None for a mask without a pixel."""
        query, kind = divmod(place, len(self._names))
        padded_11HW = F.interpolate(masks_Qhw[query, None, None], sizes.padded, mode="bilinear")
        inside_11HW = padded_11HW[..., : sizes.enlarged[0], : sizes.enlarged[1]]
        logits_HW = F.interpolate(inside_11HW, sizes.image, mode="bilinear")[0, 0].cpu()
        mask_HW = logits_HW > 0
        if not mask_HW.any():
            return None
        certainty = float(logits_HW.sigmoid()[mask_HW].mean())
        return Detection(self._names[kind], score * certainty, _around(mask_HW.numpy()), mask_HW.numpy())


def geneval_name(label: str) -> str:
    """What GenEval calls a class that a model's configuration calls `label`."""
    plain = label.replace("_", " ")
    return RENAMED.get(plain, plain)


class _Sizes(NamedTuple):
    """Heights and widths: of the network's input, of the enlarged image inside it, of the image itself."""

    padded: tuple[int, ...]
    enlarged: tuple[int, int]
    image: tuple[int, int]


def _around(mask_HW: NDArray[np.bool_]) -> Box:
    """The smallest box, its right and lower edges behind the last pixel."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
