"""The stage `extractor`: the feature extractor, trained if it must be, and the real images' features, computed once for all runs.

Artefact: `extractor.json` (identity, accuracy on held-out images), `features.safetensors` (`train` and `validation`, float32
[N, D], and their class labels, int64 [N]: the references of each class) and, for an extractor that is trained here,
`weights.safetensors`.

Shapes: N images, B batch, C channels, H W height and width, D features, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from mudit.data.format import SPLITS, SplitName
from mudit.data.reader import LatentStore
from mudit.data.tensors import save_tensors
from mudit.errors import DataError
from mudit.evaluate import digits_cnn
from mudit.evaluate.extractors import WEIGHTS_FILE, Extractor, find_kind, load_extractor
from mudit.evaluate.intervals import wilson

if TYPE_CHECKING:
    from mudit.stages import Job

IDENTITY_FILE = "extractor.json"
FEATURES_FILE = "features.safetensors"
_BATCH = 250  # images decoded and embedded at a time


def run(job: Job) -> dict[str, Any]:
    """Raises ConfigError on an unknown extractor, DataError on a damaged store or missing weights."""
    name = job.config.evaluate.extractor
    kind = find_kind(name)
    store = LatentStore.open(job.inputs["data"])
    store.verify()
    wanted = getattr(job.config.model, "num_classes", None)  # text models have none: their classes are the store's
    if wanted not in (None, store.info.num_classes):
        raise DataError(f"the store has {store.info.num_classes} classes, model.num_classes is {wanted}; make them equal")
    if kind.trained:
        _train(store, job.out / WEIGHTS_FILE)
    extractor = load_extractor(name, job.out)
    tensors: dict[str, Tensor] = {}
    accuracy = {}
    for split in SPLITS:
        tensors[split], logits_NK = extractor.features(real_images(store, split))
        labels_N = tensors[_labels_of(split)] = store.split(split).labels(torch.arange(len(tensors[split])))
        if logits_NK is not None:
            accuracy[split] = _accuracy(logits_NK, labels_N)
    save_tensors(tensors, job.out / FEATURES_FILE)
    identity = {
        "name": name,
        "sha256": extractor.sha256,
        "features": tensors["train"].shape[1],
        "knows_classes": kind.logits is not None,
        "accuracy": accuracy or None,
        "images": {split: len(tensors[split]) for split in SPLITS},
    }
    (job.out / IDENTITY_FILE).write_text(json.dumps(identity, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {**identity, "flops": 0, "device": extractor.device}


def real_images(store: LatentStore, split: SplitName) -> Iterator[Tensor]:
    """A split's images in order, uint8 [B, C, H, W]: the pixels themselves, or what the decoder makes of the posterior means."""
    encoder, images = store.encoder(), store.split(split)
    for indices_B in torch.split(torch.arange(len(images)), _BATCH):
        yield encoder.decode(images.latents(indices_B))


def load_identity(folder: Path) -> dict[str, Any]:
    """`extractor.json` of the artefact."""
    identity: dict[str, Any] = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
    return identity


class RealFeatures(NamedTuple):
    """Real images of one split as the extractor sees them, in store order."""

    features_ND: Tensor  # float32
    labels_N: Tensor  # int64

    def of_class(self, label: int) -> Tensor:
        """Features of one class, float32 [., D]."""
        return self.features_ND[self.labels_N == label]


def load_real_features(folder: Path) -> dict[str, RealFeatures]:
    """The real images by split."""
    tensors = load_file(folder / FEATURES_FILE)
    return {split: RealFeatures(tensors[split], tensors[_labels_of(split)]) for split in SPLITS}


def open_extractor(folder: Path) -> Extractor:
    """The extractor behind the artefact. Raises DataError if weights from outside are no longer the ones it was made with."""
    identity = load_identity(folder)
    extractor = load_extractor(identity["name"], folder)
    if extractor.sha256 != identity["sha256"]:
        raise DataError(f"weights of {identity['name']} changed since {folder} was made; run `mudit extractor` again with --force")
    return extractor


def _train(store: LatentStore, path: Path) -> None:
    labels_N = store.split("train").labels(torch.arange(len(store.split("train"))))
    network = digits_cnn.train(torch.cat(list(real_images(store, "train"))), labels_N, store.info.num_classes)
    save_tensors(network.state_dict(), path)


def _labels_of(split: str) -> str:
    return f"{split}_labels"


def _accuracy(logits_NK: Tensor, labels_N: Tensor) -> dict[str, Any]:
    correct_N = logits_NK.argmax(dim=1) == labels_N
    correct, count = int(correct_N.sum()), len(correct_N)
    return {"value": correct / count, "interval": wilson(correct, count), "n": count}
