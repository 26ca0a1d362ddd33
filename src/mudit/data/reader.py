"""Random access to the latent store: memory-mapped shards, one gather per batch.

Shapes: B images of a batch, C channels, H W latent height and width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mudit.config.schema import ModelSection
from mudit.data.encoders import Encoder, load_encoder
from mudit.data.format import STORE_FILE, SplitName, StoreInfo, TensorLayout, read_info, sha256_file, shard_layout
from mudit.errors import DataError


class Latents(NamedTuple):
    """Posterior moments of some images, unscaled. `std_BCHW` is None when the encoder is deterministic."""

    mean_BCHW: Tensor
    std_BCHW: Tensor | None
    labels_B: Tensor


class LatentStore:
    """An open store. Cheap to open; shard files are mapped when first touched and never copied as a whole."""

    def __init__(self, folder: Path, info: StoreInfo) -> None:
        self.folder, self.info = folder, info
        self._splits: dict[SplitName, LatentSplit] = {}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads `store.json`. Raises DataError if the folder holds no store, or one of another format or version."""
        return cls(folder, read_info(folder))

    def split(self, name: SplitName) -> LatentSplit:
        """One split. Raises DataError if it is empty or a shard is missing, cut short or of the wrong shape."""
        if name not in self._splits:
            self._splits[name] = LatentSplit(self.folder, self.info, name)
        return self._splits[name]

    def encoder(self) -> Encoder:
        """The encoder that made the store, for decoding. Raises DataError if its files are missing or are others."""
        return load_encoder(self.folder, self.info)

    def check_fits(self, model: ModelSection) -> None:
        """Raises DataError unless the model's input and classes are those of the store."""
        expected = (model.channels, model.image_size, model.image_size)
        if self.info.latent_shape != expected:
            raise DataError(
                f"{self.folder / STORE_FILE}: latents are {self.info.latent_shape} (C, H, W), the model section wants {expected}; "
                "set model.channels and model.image_size, or prepare other data"
            )
        if self.info.num_classes != model.num_classes:
            raise DataError(
                f"{self.folder / STORE_FILE}: {self.info.num_classes} classes, model.num_classes is {model.num_classes}; "
                "make them equal"
            )

    def verify(self) -> None:
        """Reads every shard and compares checksums. Raises DataError that names the first damaged file."""
        for split in self.info.splits.values():
            for shard in split.shards:
                path = self.folder / shard.file
                shard_layout(path, shard, self.info)
                if sha256_file(path) != shard.sha256:
                    raise DataError(f"{path}: contents differ from the checksum in {STORE_FILE}; run `mudit data` again")


class LatentSplit:
    """The images of one split, indexed 0 .. count - 1. Returned tensors are fresh copies on the CPU."""

    def __init__(self, folder: Path, info: StoreInfo, name: SplitName) -> None:
        shards = info.splits[name].shards
        if not shards:
            raise DataError(
                f"{folder / STORE_FILE}: split {name} is empty; set data.validation_images above 0 and run `mudit data` again"
            )
        self.count = info.splits[name].count
        self.latent_shape, self.latent_scale = info.latent_shape, info.latent_scale
        self.has_std, self.flip = info.has_std, info.flip
        self._paths = [folder / shard.file for shard in shards]
        self._layouts = [shard_layout(path, shard, info) for path, shard in zip(self._paths, shards, strict=True)]
        self._ends = np.cumsum([shard.count for shard in shards])
        self._starts = self._ends - [shard.count for shard in shards]
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return self.count

    def gather(self, indices: Tensor) -> Latents:
        """Moments of the unmirrored images and labels: indices int64 [B], any order, repeats allowed. float32 and int64."""
        plan = self._plan(indices)
        mean_BCHW = self._rows("mean", plan)
        std_BCHW = self._rows("std", plan) if self.has_std else None
        return Latents(mean_BCHW, std_BCHW, self._rows("labels", plan))

    def labels(self, indices: Tensor) -> Tensor:
        """Class labels, int64 [B]."""
        return self._rows("labels", self._plan(indices))

    def latents(self, indices: Tensor, noise_BCHW: Tensor | None = None, flip_B: Tensor | None = None) -> Tensor:
        """What the transformer sees, float32 [B, C, H, W]: (mean + std * noise) * latent_scale.

        noise_BCHW: standard normals for the posterior draw; None takes the mean. It changes nothing for a deterministic encoder.
        flip_B: bool [B], true takes the mirrored image's moments; the store must have been made with `flip`.
        """
        plan = self._plan(indices)
        latents_BCHW = self._view("mean", plan, flip_B)
        if noise_BCHW is not None and self.has_std:
            latents_BCHW += self._view("std", plan, flip_B) * noise_BCHW
        return latents_BCHW.mul_(self.latent_scale)

    def _view(self, name: str, plan: _Plan, flip_B: Tensor | None) -> Tensor:
        rows_BCHW = self._rows(name, plan)
        if flip_B is None:
            return rows_BCHW
        assert self.flip, "flips asked of a store without mirrored moments"
        return torch.where(flip_B[:, None, None, None], self._rows(f"{name}_flip", plan), rows_BCHW)

    def _plan(self, indices: Tensor) -> _Plan:
        """Which rows of which shards: computed once per batch, used for every tensor."""
        indices_B = indices.numpy()
        if len(indices_B) and not 0 <= indices_B.min() <= indices_B.max() < self.count:
            raise IndexError(f"indices {indices_B.min()}..{indices_B.max()} outside 0..{self.count - 1}")
        shard_B = np.searchsorted(self._ends, indices_B, side="right")
        order_B = np.argsort(shard_B, kind="stable")
        shards, firsts = np.unique(shard_B[order_B], return_index=True)
        groups = np.split(order_B, firsts)[1:]  # nothing lies before the first
        return _Plan(
            len(indices_B),
            [(int(shard), places, indices_B[places] - self._starts[shard]) for shard, places in zip(shards, groups, strict=True)],
        )

    def _rows(self, name: str, plan: _Plan) -> Tensor:
        first = self._layouts[0][name]
        rows = np.empty((plan.total, *first.shape[1:]), dtype=first.dtype)
        for shard, places, local in plan.pieces:
            rows[places] = self._mapped(shard, self._layouts[shard][name])[local]
        return torch.from_numpy(rows)

    def _mapped(self, shard: int, layout: TensorLayout) -> NDArray[Any]:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._paths[shard], dtype=np.uint8, mode="r")
        return np.ndarray(layout.shape, dtype=layout.dtype, buffer=self._maps[shard], offset=layout.offset)


class _Plan(NamedTuple):
    """Batch size, and for each touched shard: its number, places in the batch, rows in the shard."""

    total: int
    pieces: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]
