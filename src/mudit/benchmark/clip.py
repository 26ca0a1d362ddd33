"""CLIP (Radford et al. 2021) from a local folder of `transformers`: the scorer behind the CLIP score, and what names colours.

The score of an image and a text is 100 x the cosine of their embeddings: that of Hessel et al. 2021 without their clamp at zero,
and with 100 for their factor 2.5. Images are prepared as CLIP's own were: the shorter side to the network's input size with a
bicubic filter, the centre, CLIP's mean and deviation. Texts are cut to the model's own length (77 tokens).

Shapes: B batch, N images or texts, C channels, H W height and width, S common space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mudit.data.pretrained import folder_sha256, load_network, load_tokenizer
from mudit.data.reader import LatentSplit
from mudit.evaluate.scorer import Seen
from mudit.train.device import compute_device, matmul_precision

FORMULA = "100 x cosine of CLIP's embeddings of image and prompt"
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
_TEXTS = 256  # of one pass


class ClipScorer:
    """One CLIP model, as a `mudit.evaluate.scorer.Scorer`. It tells no classes apart."""

    def __init__(self, folder: Path, where: str) -> None:
        """where: the setting that named the folder. Raises DataError."""
        self._tokenizer = load_tokenizer(folder, where)
        network: Any = load_network(_model_class(), folder, where, ("clip",))
        self._place = compute_device()
        self.device = self._place.type
        self._network = network.to(self._place)
        self._side = int(network.config.vision_config.image_size)
        self._max_tokens = int(network.config.text_config.max_position_embeddings)
        self.identity: dict[str, Any] = {"name": "clip", "sha256": folder_sha256(folder), "formula": FORMULA}

    def see(self, batches: Iterable[Tensor]) -> Seen:
        """uint8 batches [B, C, H, W], grey or RGB, of any size -> embeddings."""
        return Seen(torch.cat([self.see_pictures([picture(image) for image in batch]) for batch in batches]), None)

    def read(self, split: LatentSplit, indices_N: Tensor) -> Tensor:
        """Captions of a split's images -> embeddings [N, S]."""
        return self.read_texts(split.captions(indices_N))

    @torch.inference_mode()
    def see_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any sizes -> embeddings float32 [N, S], rows of length one, on the CPU."""
        pixels_BCHW = torch.stack([prepared(each, self._side) for each in pictures])
        with matmul_precision("fp32", self._place):
            pooled = self._network.vision_model(pixel_values=pixels_BCHW.to(self._place)).pooler_output
            return F.normalize(self._network.visual_projection(pooled), dim=-1).cpu()

    @torch.inference_mode()
    def read_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> embeddings float32 [N, S], rows of length one, on the CPU."""
        parts = []
        for first in range(0, len(texts), _TEXTS):
            encoded = self._tokenizer(
                list(texts[first : first + _TEXTS]),
                padding=True,
                truncation=True,
                max_length=min(self._max_tokens, int(self._tokenizer.model_max_length)),
                return_tensors="pt",
            ).to(self._place)
            read = {name: encoded[name] for name in ("input_ids", "attention_mask")}
            with matmul_precision("fp32", self._place):
                pooled = self._network.text_model(**read).pooler_output
                parts.append(F.normalize(self._network.text_projection(pooled), dim=-1).cpu())
        return torch.cat(parts)


def picture(image_CHW: Tensor) -> Image.Image:
    """A uint8 tensor, grey or RGB, as an RGB picture."""
    rgb_CHW = image_CHW.expand(3, -1, -1) if image_CHW.shape[0] == 1 else image_CHW
    return Image.fromarray(np.ascontiguousarray(rgb_CHW.permute(1, 2, 0).numpy()))


def prepared(image: Image.Image, side: int) -> Tensor:
    """CLIP's input, float32 [3, side, side]."""
    short, long = min(image.size), max(image.size)
    longer = max(side, int(side * long / short))
    size = (side, longer) if image.width <= image.height else (longer, side)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    pixels_HWC = np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    return torch.from_numpy((pixels_HWC - _MEAN) / _STD).permute(2, 0, 1)


def _model_class() -> Any:
    from transformers import CLIPModel  # slow import

    return CLIPModel
