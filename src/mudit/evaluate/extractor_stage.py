"""The stage `extractor`: the feature extractor, trained if it must be, and the real images' features, computed once for all runs.

Artefact: `extractor.json` (identity, accuracy on held-out images), `features.safetensors` (`train` and `validation`, float32
[N, D]) and, for an extractor that is trained here, `weights.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    if store.info.num_classes != job.config.model.num_classes:
        raise DataError(f"the store has {store.info.num_classes} classes, model.num_classes is {job.config.model.num_classes}")
    if kind.trained:
        _train(store, job.out / WEIGHTS_FILE)
    extractor = load_extractor(name, job.out)
    features: dict[str, Tensor] = {}
    accuracy = {}
    for split in SPLITS:
        features[split], logits_NK = extractor.features(real_images(store, split))
        if logits_NK is not None:
            accuracy[split] = _accuracy(logits_NK, store, split)
    save_tensors(features, job.out / FEATURES_FILE)
    identity = {
        "name": name,
        "sha256": extractor.sha256,
        "features": features["train"].shape[1],
        "knows_classes": kind.logits is not None,
        "accuracy": accuracy or None,
        "images": {split: len(values) for split, values in features.items()},
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


def load_real_features(folder: Path) -> dict[str, Tensor]:
    """Features of the real images by split, float32 [N, D]."""
    return load_file(folder / FEATURES_FILE)


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


def _accuracy(logits_NK: Tensor, store: LatentStore, split: SplitName) -> dict[str, Any]:
    correct_N = logits_NK.argmax(dim=1) == store.split(split).labels(torch.arange(len(logits_NK)))
    correct, count = int(correct_N.sum()), len(correct_N)
    return {"value": correct / count, "interval": wilson(correct, count), "n": count}
