"""The stage `extractor`: the feature extractor, trained if it must be, and what the metrics know of real images, once for all runs.

Real images pass through in pieces that processes share and that survive kills (`mudit.evaluate.pieces`): of each piece its moments
are kept, and the features of a few images. The pieces, and the order in which they are put together, do not depend on the number of
processes, so nor does any bit of the artefact (`mudit.evaluate.reference`).

Shapes: N images, B batch, C channels, H W height and width, D features, K classes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from mudit.config.schema import EvaluateSection
from mudit.data.format import SplitName
from mudit.data.reader import LatentStore
from mudit.data.tensors import save_tensors
from mudit.errors import ConfigError, DataError
from mudit.evaluate import digits_cnn
from mudit.evaluate.extractors import WEIGHTS_FILE, Extractor, Features, concatenated, find_kind, load_extractor
from mudit.evaluate.frechet import Gaussian, Moments, merged
from mudit.evaluate.intervals import wilson
from mudit.evaluate.pieces import Piece, Pieces
from mudit.evaluate.reference import IDENTITY_FILE, Real, feature_tensors, features_of
from mudit.evaluate.reference_file import ReferenceFile
from mudit.jobs.crew import Crew
from mudit.jobs.distributed import barrier
from mudit.jobs.interrupt import Interrupt
from mudit.sizes import KEPT_IMAGES, MOMENT_IMAGES
from mudit.train.device import compute_device, matmul_precision

if TYPE_CHECKING:
    from mudit.stages import Job

_HELD_OUT_IMAGES = 2_048
_BATCH = 250  # images decoded and embedded at a time
_LAYERS = ("", "spatial_")


class _Reference(Protocol):
    """Real images in a fixed order."""

    @property
    def count(self) -> int: ...

    def batches(self, numbers: range) -> Iterator[Tensor]:
        """Some of them in order, uint8 [B, C, H, W]."""
        ...


def run(job: Job) -> dict[str, Any]:
    """Called by all processes of the job.

    Raises ConfigError on an unknown extractor or more reference images than there are, DataError on a store or reference file
    that is damaged, or weights that are missing.
    """
    section = job.config.evaluate
    kind, store = find_kind(section.extractor), LatentStore.open(job.inputs["data"])
    wanted = getattr(job.config.model, "num_classes", None)  # text models have none: their classes are the store's
    if wanted not in (None, store.info.num_classes):
        raise DataError(f"the store has {store.info.num_classes} classes, model.num_classes is {wanted}; make them equal")
    with Interrupt() as interrupt:
        crew = Crew(interrupt)
        store.verify(crew.world.rank, crew.world.size)
        file = ReferenceFile(Path(section.reference.path), section.reference.sha256) if section.reference.kind == "file" else None
        reference = file or StoreImages(store, "train", _wanted_images(section, store))
        held_out = StoreImages(store, "validation", min(KEPT_IMAGES, len(store.split("validation"))))
        trained = job.state / WEIGHTS_FILE
        if kind.trained and crew.world.main and not trained.is_file():
            job.state.mkdir(parents=True, exist_ok=True)
            _train(store, trained)
        barrier()
        extractor = load_extractor(section.extractor, job.state, section.weights)
        if file is not None:
            _check_statistics(file, extractor)
        described = _describe(store, file, reference.count)
        pieces = Pieces(job.state / "features")
        pieces.begin({"weights": extractor.sha256, "reference": described, "pieces": [MOMENT_IMAGES, _HELD_OUT_IMAGES]}, crew)
        work = _Work(extractor, reference, held_out, with_moments=file is None)
        pieces.make(work.pieces, crew, "extractor")
    if not crew.world.main:
        return {}
    real, accuracy = work.collect(pieces, file)
    real.save(job.out)
    if kind.trained:
        shutil.copyfile(trained, job.out / WEIGHTS_FILE)
    identity = {
        "name": section.extractor,
        "sha256": extractor.sha256,
        "features": real.kept_ND.shape[1],
        "spatial_features": len(real.spatial.mean_D),
        "knows_classes": kind.knows_classes,
        "accuracy": accuracy or None,
        "images": {"reference": reference.count, "validation": held_out.count},
        "reference": described,
    }
    (job.out / IDENTITY_FILE).write_text(json.dumps(identity, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {**identity, "flops": None, "device": extractor.device}


class StoreImages:
    """The first images of a split: the pixels themselves, or what the decoder makes of the posterior means."""

    def __init__(self, store: LatentStore, split: SplitName, count: int) -> None:
        self.count, self._split, self._store = count, store.split(split), store

    @functools.cached_property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return self._split.labels(torch.arange(self.count))

    def batches(self, numbers: range) -> Iterator[Tensor]:
        """Some of them in order, uint8 [B, C, H, W]."""
        for indices_B in torch.arange(numbers.start, numbers.stop).split(_BATCH):
            latents_BCHW = self._split.latents(indices_B)
            with matmul_precision("tf32", compute_device()):  # as the store was made; bytes do not show the difference
                images_BCHW = self._encoder.decode(latents_BCHW)
            yield images_BCHW

    @functools.cached_property
    def _encoder(self) -> Any:
        return self._store.encoder()


def real_images(store: LatentStore, split: SplitName) -> Iterator[Tensor]:
    """All images of a split in order, uint8 [B, C, H, W]."""
    images = StoreImages(store, split, len(store.split(split)))
    return images.batches(range(images.count))


class _Work:
    """Which pieces there are, how one is made, and how all are put together."""

    def __init__(self, extractor: Extractor, reference: _Reference, held_out: StoreImages, with_moments: bool) -> None:
        self._extractor, self._reference, self._held_out = extractor, reference, held_out
        self._with_moments = with_moments
        kept = min(KEPT_IMAGES, reference.count)
        self._kept_N = torch.arange(kept) * reference.count // kept if with_moments else torch.arange(reference.count)
        self._reference_ranges = _ranges(reference.count, MOMENT_IMAGES if with_moments else _HELD_OUT_IMAGES)
        self._held_out_ranges = _ranges(held_out.count, _HELD_OUT_IMAGES)

    @property
    def pieces(self) -> list[Piece]:
        """The reference, then the held-out images."""
        reference = [
            Piece(_name("reference", numbers), len(numbers), functools.partial(self._reference_piece, numbers))
            for numbers in self._reference_ranges
        ]
        held_out = [
            Piece(_name("held-out", numbers), len(numbers), functools.partial(self._held_out_piece, numbers))
            for numbers in self._held_out_ranges
        ]
        return reference + held_out

    def collect(self, pieces: Pieces, file: ReferenceFile | None) -> tuple[Real, dict[str, Any]]:
        """Everything together, in order, and a classifier's accuracy."""
        names = [_name("reference", numbers) for numbers in self._reference_ranges]
        kept_ND = torch.cat([pieces.load(name)["kept"] for name in names])
        held_out = concatenated(features_of(pieces.load(_name("held-out", each))) for each in self._held_out_ranges)
        if file is None:
            gaussians = [_merged(pieces, names, layer) for layer in _LAYERS]
            labels_N = self._labels()[self._kept_N]
        else:
            gaussians, labels_N = [file.gaussian, file.spatial], None
        accuracy = {}
        if self._extractor.knows_classes:
            correct = sum(int(pieces.load(name)["correct"]) for name in names)
            accuracy = {
                "train": _accuracy(correct, self._reference.count),
                "validation": _accuracy(_correct(held_out, self._held_out.labels), self._held_out.count),
            }
        return Real(gaussians[0], gaussians[1], kept_ND, labels_N, held_out, self._held_out.labels), accuracy

    def _reference_piece(self, numbers: range) -> dict[str, Tensor]:
        features = self._extractor.features(self._reference.batches(numbers))
        kept_n = self._kept_N[(self._kept_N >= numbers.start) & (self._kept_N < numbers.stop)] - numbers.start
        tensors = {"kept": features.features_ND[kept_n]}
        if self._with_moments:
            for layer, layer_ND in zip(_LAYERS, (features.features_ND, features.spatial_NS), strict=True):
                moments = Moments.of(layer_ND.numpy())
                tensors[f"{layer}mean"] = torch.from_numpy(moments.mean_D)
                tensors[f"{layer}scatter"] = torch.from_numpy(moments.scatter_DD)
            tensors["count"] = torch.tensor(len(numbers))
        if self._extractor.knows_classes:
            tensors["correct"] = torch.tensor(_correct(features, self._labels()[numbers.start : numbers.stop]))
        return tensors

    def _labels(self) -> Tensor:
        assert isinstance(self._reference, StoreImages), "images of a file have no labels"
        return self._reference.labels

    def _held_out_piece(self, numbers: range) -> dict[str, Tensor]:
        return feature_tensors(self._extractor.features(self._held_out.batches(numbers)))


def _merged(pieces: Pieces, names: list[str], layer: str) -> Gaussian:
    """Of all pieces, one of them in memory at a time."""

    def moments() -> Iterator[Moments]:
        for name in names:
            tensors = pieces.load(name)
            yield Moments(int(tensors["count"]), tensors[f"{layer}mean"].numpy(), tensors[f"{layer}scatter"].numpy())

    return merged(moments()).gaussian


def _check_statistics(file: ReferenceFile, extractor: Extractor) -> None:
    """Raises DataError unless a file's statistics are of the extractor's layers."""
    seen = extractor.features(file.batches(range(1)))
    for name, gaussian, seen_ND in (("mu", file.gaussian, seen.features_ND), ("mu_s", file.spatial, seen.spatial_NS)):
        if len(gaussian.mean_D) != seen_ND.shape[1]:
            raise DataError(
                f"{file.path}: {name} has {len(gaussian.mean_D)} features, {extractor.name} has {seen_ND.shape[1]}; take the "
                "extractor that the statistics are of"
            )


def _wanted_images(section: EvaluateSection, store: LatentStore) -> int:
    """Training images behind the reference."""
    assert section.reference.kind == "data"
    there = len(store.split("train"))
    wanted = section.reference.images or there
    if wanted > there:
        raise ConfigError(f"evaluate.reference.images: {wanted}, but the store has {there} training images; lower it, or give null")
    return wanted


def _describe(store: LatentStore, file: ReferenceFile | None, count: int) -> dict[str, Any]:
    """Which real images generated ones are compared with, for every record."""
    if file is not None:
        return {"kind": "file", "file": file.path.name, "sha256": file.sha256, "n": None, "kept": count}
    shards = "".join(shard.sha256 for shard in store.info.splits["train"].shards)
    return {
        "kind": "data",
        "split": "train",
        "n": count,
        "kept": min(KEPT_IMAGES, count),
        "images": "pixels" if store.info.encoder["name"] == "identity" else "decoded posterior means",
        "sha256": hashlib.sha256(shards.encode()).hexdigest(),
    }


def _train(store: LatentStore, path: Path) -> None:
    labels_N = store.split("train").labels(torch.arange(len(store.split("train"))))
    network = digits_cnn.train(torch.cat(list(real_images(store, "train"))), labels_N, store.info.num_classes)
    save_tensors(network.state_dict(), path)


def _ranges(count: int, size: int) -> list[range]:
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _name(what: str, numbers: range) -> str:
    return f"{what}-{numbers.start:08d}"


def _correct(features: Features, labels_N: Tensor) -> int:
    return int((features.logits_NK.argmax(dim=1) == labels_N).sum())


def _accuracy(correct: int, count: int) -> dict[str, Any]:
    return {"value": correct / count, "interval": wilson(correct, count), "n": count}
