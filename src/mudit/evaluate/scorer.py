"""Text-image scorers: what evaluation asks of one, and ours, two linear projections over frozen encoders.

Ours puts EfficientNet-Lite0's *pooled* features of an image at 112 pixels and the pooled text vector of the latent store into one
space, as CLIP does (Radford et al. 2021), and reads the class of an image (emoji: its drawing style) off the same features with a
logistic regression. Its score ranks runs on one data set; it is not comparable with CLIP's. A run that was trained with REPA on
EfficientNet-Lite0's *local* features learned from the network that judges it here and may profit; `evaluate` says so in its
records.

Shapes: N images or captions, B batch, C channels, H W height and width, D image features, P pooled text features, S common space,
K classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mudit.data.reader import LatentSplit
from mudit.errors import DataError
from mudit.evaluate.extractors import Extractor, load_extractor
from mudit.evaluate.threads import one_thread
from mudit.files import sha256_file

WEIGHTS_FILE = "scorer.safetensors"
RESULT_FILE = "scorer.json"
HELD_OUT_FILE = "held_out.safetensors"

_FIRST_SCALE, _LARGEST_SCALE = 1 / 0.07, 100.0  # of the cosines inside the softmax, as in CLIP
_LEAST_STD = 0.1  # of a feature, in units of the median feature's
_BATCH = 250  # captions read at a time


class Seen(NamedTuple):
    """Images as a scorer sees them."""

    embeddings_NS: Tensor  # float32, rows of length one
    classes_N: Tensor | None  # int64, the most probable class; None if the scorer tells no classes apart


class Scorer(Protocol):
    """Puts images and captions into one space, where their cosine says how well they fit."""

    identity: dict[str, Any]
    """Names and digests of everything behind the numbers."""
    device: str

    def see(self, batches: Iterable[Tensor]) -> Seen:
        """uint8 batches [B, C, H, W] of images -> what it sees, on the CPU."""
        ...

    def read(self, split: LatentSplit, indices_N: Tensor) -> Tensor:
        """Captions of a split's images -> embeddings [N, S], float32, rows of length one, on the CPU."""
        ...


class Projection(nn.Module):
    """Standardise, project, normalise."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.linear = nn.Linear(features, dim, bias=False)

    def fit(self, features_ND: Tensor) -> None:
        """Takes mean and standard deviation from the training features.

        A feature that hardly ever changes counts as changing by a tenth of the median feature, so that the one generated image in
        which it is large is not all about it; one that never changes is only centred.
        """
        mean_D, std_D = features_ND.mean(dim=0), features_ND.std(dim=0)
        std_D = std_D.clamp(min=_LEAST_STD * std_D.median().item())
        self.load_state_dict({"mean": mean_D, "std": torch.where(std_D > 0, std_D, 1.0)}, strict=False)

    def standardised(self, features_ND: Tensor) -> Tensor:
        """Zero mean and unit variance per feature on the training images."""
        return (features_ND - self.get_buffer("mean")) / self.get_buffer("std")

    def forward(self, features_ND: Tensor) -> Tensor:
        """[N, D] -> [N, S], rows of length one."""
        return F.normalize(self.linear(self.standardised(features_ND)), dim=-1)


class Heads(nn.Module):
    """Everything that is trained: both projections, the softmax's scale and the probe of classes (none for a single class)."""

    def __init__(self, image_features: int, text_features: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.image = Projection(image_features, dim)
        self.text = Projection(text_features, dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        self.probe = nn.Linear(image_features, num_classes) if num_classes > 1 else None

    def contrast(self, image_BD: Tensor, text_BP: Tensor) -> Tensor:
        """Symmetric contrastive loss of pairs: each image among the batch's captions, each caption among its images."""
        scale = self.log_scale.exp().clamp(max=_LARGEST_SCALE)
        logits_BB = scale * self.image(image_BD) @ self.text(text_BP).T
        own_B = torch.arange(len(logits_BB))
        return (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2

    def see(self, image_ND: Tensor) -> Seen:
        """Features of the image encoder -> embeddings and classes."""
        classes_N = None if self.probe is None else self.probe(self.image.standardised(image_ND)).argmax(dim=-1)
        return Seen(self.image(image_ND), classes_N)


class LinearScorer:
    """Trained heads over the encoders that they were trained on."""

    def __init__(self, heads: Heads, encoder: Extractor, identity: dict[str, Any]) -> None:
        self._heads, self._encoder = heads.requires_grad_(False).eval(), encoder
        self.identity, self.device = identity, encoder.device

    def see(self, batches: Iterable[Tensor]) -> Seen:
        """uint8 batches [B, C, H, W] of images -> what it sees."""
        features_ND = self._encoder.features(batches).features_ND
        with one_thread():
            return self._heads.see(features_ND)

    def read(self, split: LatentSplit, indices_N: Tensor) -> Tensor:
        """Captions of a split's images -> embeddings [N, S]."""
        with one_thread():
            return self._heads.text(pooled_text(split, indices_N))


def pooled_text(split: LatentSplit, indices_N: Tensor) -> Tensor:
    """The store's pooled text vectors, float32 [N, P]; the tokens, which come along, are let go batch by batch."""
    parts = [split.text(part_B, torch.zeros(len(part_B), dtype=torch.bool)).pooled for part_B in torch.split(indices_N, _BATCH)]
    return torch.cat(parts)


def open_scorer(folder: Path) -> Scorer:
    """The scorer of the artefact that the stage `scorer` made.

    Raises DataError if its weights are damaged, or the image encoder's are no longer the ones it was trained over.
    """
    result = load_result(folder)
    identity: dict[str, Any] = result["identity"]
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot read the scorer's weights; run `mudit scorer` again") from error
    if sha256_file(path) != identity["sha256"]:
        raise DataError(f"{path}: not the weights that {RESULT_FILE} describes; run `mudit scorer` again")
    encoder = load_extractor(identity["image_encoder"]["name"], folder)
    if encoder.sha256 != identity["image_encoder"]["sha256"]:
        raise DataError(f"weights of {encoder.name} changed since {folder} was made; run `mudit scorer` again with --force")
    (dim, image_features), text_features = weights["image.linear.weight"].shape, weights["text.linear.weight"].shape[1]
    heads = Heads(image_features, text_features, dim, num_classes=len(weights.get("probe.bias", ())))
    heads.load_state_dict(weights)
    return LinearScorer(heads, encoder, identity)


def load_result(folder: Path) -> dict[str, Any]:
    """`scorer.json` of the artefact: identity, settings, and what it reaches on held-out images."""
    result: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    return result


class HeldOut(NamedTuple):
    """The real held-out images and their captions in the scorer's space, in store order: the reference for every run."""

    seen: Seen
    captions_NS: Tensor

    @classmethod
    def load(cls, folder: Path) -> HeldOut:
        """Inverse of `tensors`."""
        tensors = load_file(folder / HELD_OUT_FILE)
        return cls(Seen(tensors["embeddings_NS"], tensors.get("classes_N")), tensors["captions_NS"])

    def tensors(self) -> dict[str, Tensor]:
        """What the file holds."""
        tensors = {"embeddings_NS": self.seen.embeddings_NS, "captions_NS": self.captions_NS}
        return tensors if self.seen.classes_N is None else {**tensors, "classes_N": self.seen.classes_N}
