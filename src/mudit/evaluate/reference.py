"""What the metrics know of real images: the artefact of the stage `extractor`, as it is written and read.

`reference.safetensors`: moments of the pooled and the spatial features (`mean`, `covariance`, `spatial_mean`, `spatial_covariance`,
float64) of all reference images, and `kept`, float32 [N, D], the features of some of them, evenly spread, for what compares image
with image; `labels`, int64 [N], their classes, unless the reference is a file. `held_out.safetensors`: `features`, `logits`,
`spatial` (float32) and `labels` of held-out images, the floor of every figure. `extractor.json`: identity of the extractor and of
the reference, accuracy of a classifier.

Shapes: N images, D features, S spatial features, K classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mudit.data.tensors import save_tensors
from mudit.errors import DataError
from mudit.evaluate.extractors import Extractor, Features, load_extractor
from mudit.evaluate.frechet import Gaussian

IDENTITY_FILE = "extractor.json"
REFERENCE_FILE = "reference.safetensors"
HELD_OUT_FILE = "held_out.safetensors"


class Real(NamedTuple):
    """Real images as the extractor sees them."""

    gaussian: Gaussian  # of all reference images
    spatial: Gaussian
    kept_ND: Tensor  # float32, of some
    kept_labels_N: Tensor | None  # int64; None: the reference is a file
    held_out: Features
    held_out_labels_N: Tensor

    def kept_of_class(self, label: int) -> Tensor:
        """Kept reference features of one class, float32 [., D]."""
        assert self.kept_labels_N is not None, "classes asked of a reference without labels"
        return self.kept_ND[self.kept_labels_N == label]

    def held_out_of_class(self, label: int) -> Tensor:
        """Held-out features of one class, float32 [., D]."""
        return self.held_out.features_ND[self.held_out_labels_N == label]

    def save(self, folder: Path) -> None:
        """Write the files that `load` reads."""
        moments = {"": self.gaussian, "spatial_": self.spatial}
        reference = {f"{prefix}mean": torch.from_numpy(each.mean_D) for prefix, each in moments.items()}
        reference |= {f"{prefix}covariance": torch.from_numpy(each.covariance_DD) for prefix, each in moments.items()}
        labels = {} if self.kept_labels_N is None else {"labels": self.kept_labels_N}
        save_tensors({**reference, **labels, "kept": self.kept_ND}, folder / REFERENCE_FILE)
        save_tensors({**feature_tensors(self.held_out), "labels": self.held_out_labels_N}, folder / HELD_OUT_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`. Raises DataError on damaged files."""
        try:
            reference, held_out = load_file(folder / REFERENCE_FILE), load_file(folder / HELD_OUT_FILE)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{folder}: cannot read the reference of the metrics ({error}); run `mudit extractor` again") from error
        gaussian, spatial = (
            Gaussian(reference[f"{prefix}mean"].numpy(), reference[f"{prefix}covariance"].numpy()) for prefix in ("", "spatial_")
        )
        return cls(gaussian, spatial, reference["kept"], reference.get("labels"), features_of(held_out), held_out["labels"])


def feature_tensors(features: Features) -> dict[str, Tensor]:
    """As a file holds them."""
    return {"features": features.features_ND, "logits": features.logits_NK, "spatial": features.spatial_NS}


def features_of(tensors: dict[str, Tensor]) -> Features:
    """Inverse of `feature_tensors`."""
    return Features(tensors["features"], tensors["logits"], tensors["spatial"])


def load_identity(folder: Path) -> dict[str, Any]:
    """`extractor.json` of the artefact."""
    identity: dict[str, Any] = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
    return identity


def open_extractor(folder: Path, weights: str | None = None) -> Extractor:
    """The extractor behind the artefact; `weights` as in `load_extractor`.

    Raises DataError if weights from outside are no longer the ones that it was made with.
    """
    identity = load_identity(folder)
    extractor = load_extractor(identity["name"], folder, weights)
    if extractor.sha256 != identity["sha256"]:
        raise DataError(f"weights of {identity['name']} changed since {folder} was made; run `mudit extractor` again with --force")
    return extractor
