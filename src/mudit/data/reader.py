"""Random access to the latent store: memory-mapped shards, one gather per batch.

Legend: B images of a batch, C channels, H W latent height and width, L caption tokens, T tokens of a shard, E token feature
width, P pooled width, N patches, Z image feature width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mudit.config.models import ModelSection
from mudit.data.encoders import Encoder, load_encoder
from mudit.data.fit import check_fits, check_latents
from mudit.data.format import (
    STORE_FILE,
    Shard,
    SplitName,
    StoreInfo,
    TensorLayout,
    TextInfo,
    check_size,
    making,
    read_info,
    shard_layout,
)
from mudit.data.tensors import unpack_tokens
from mudit.data.text import CaptionEncoder
from mudit.errors import DataError
from mudit.files import sha256_file
from mudit.models.condition import TextCondition


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
        """Raises DataError unless the store has what the model reads, in the model's sizes."""
        check_fits(self.folder / STORE_FILE, self.info, model)

    def check_latents(self, model: ModelSection) -> None:
        """Raises DataError unless the latents have the model's size; captions and labels may come from elsewhere."""
        check_latents(self.folder / STORE_FILE, self.info, model)

    def verify(self, rank: int = 0, ranks: int = 1) -> None:
        """Reads every shard and compares checksums. Raises DataError that names the first damaged file.

        Of several processes each takes its share.
        """
        shards = [shard for split in self.info.splits.values() for shard in split.shards]
        for shard in shards[rank::ranks]:
            shard_layout(self.folder / shard.file, shard, self.info)
            for entry in shard.files():
                path = self.folder / entry.file
                check_size(path, entry)
                if sha256_file(path) != entry.sha256:
                    raise DataError(f"{path}: contents differ from the checksum in {STORE_FILE}; run: {making(self.folder)}")


class LatentSplit:
    """The images of one split, indexed 0 .. count - 1. Returned tensors are fresh copies on the CPU."""

    def __init__(self, folder: Path, info: StoreInfo, name: SplitName) -> None:
        shards = info.splits[name].shards
        if not shards:
            raise DataError(
                f"{folder / STORE_FILE}: split {name} is empty; set data.validation_images above 0 and run: {making(folder)}"
            )
        self.count = info.splits[name].count
        self.latent_shape, self.latent_scale, self.latent_shift = info.latent_shape, info.latent_scale, info.latent_shift
        self.has_std, self.flip = info.has_std, info.flip
        self._folder, self._text, self._has_features, self._shards = folder, info.text, info.features is not None, shards
        self._paths = [folder / shard.file for shard in shards]
        self._layouts = [shard_layout(path, shard, info) for path, shard in zip(self._paths, shards, strict=True)]
        self._ends = np.cumsum([shard.count for shard in shards])
        self._starts = self._ends - [shard.count for shard in shards]
        self._maps: dict[int, NDArray[np.uint8]] = {}
        self._captions: dict[int, list[str]] = {}
        self._encoder: CaptionEncoder | None = None  # opened when a store without features is asked for them

    def __len__(self) -> int:
        return self.count

    @property
    def encodes_captions(self) -> bool:
        """Whether `text` runs the text encoders, because the store holds captions and no features."""
        return self._text is not None and self._text.storage == "on-the-fly"

    def gather(self, indices: Tensor) -> Latents:
        """Moments of the unmirrored images and labels: indices int64 [B], any order, repeats allowed. float32 and int64."""
        plan = self._plan(indices)
        mean_BCHW = self._rows("mean", plan)
        std_BCHW = self._rows("std", plan) if self.has_std else None
        return Latents(mean_BCHW.float(), None if std_BCHW is None else std_BCHW.float(), self._rows("labels", plan))

    def labels(self, indices: Tensor) -> Tensor:
        """Class labels, int64 [B]."""
        return self._rows("labels", self._plan(indices))

    def latents(self, indices: Tensor, noise_BCHW: Tensor | None = None, flip_B: Tensor | None = None) -> Tensor:
        """What the transformer sees, float32 [B, C, H, W]: (mean + std * noise - latent_shift) * latent_scale.

        noise_BCHW: standard normals for the posterior draw; None takes the mean. It changes nothing for a deterministic encoder.
        flip_B: bool [B], true takes the mirrored image's moments; the store must have been made with `flip`.
        """
        plan = self._plan(indices)
        latents_BCHW = self._view("mean", plan, flip_B)
        if noise_BCHW is not None and self.has_std:
            latents_BCHW.addcmul_(self._view("std", plan, flip_B), noise_BCHW)
        if self.latent_shift:
            latents_BCHW.sub_(self.latent_shift)
        return latents_BCHW.mul_(self.latent_scale)

    def text(self, indices: Tensor, dropped_B: Tensor) -> TextCondition:
        """Captions as the model reads them: features float32, padded with zeros to the store's `max_tokens`, mask true for tokens.

        dropped_B: bool [B], true for captions that guidance replaces; their own features are returned all the same.
        """
        assert self._text is not None, "text asked of a store without captions"
        plan = self._plan(indices)
        if self.encodes_captions:
            return self._encoded_text(self._text, indices, dropped_B)
        tokens_BLE = np.zeros((plan.total, self._text.max_tokens, self._text.token_dim), dtype=self._layouts[0]["tokens"].dtype)
        mask_BL = np.zeros(tokens_BLE.shape[:2], dtype=bool)
        scale_BL = np.zeros(mask_BL.shape, dtype=np.float32) if self._text.storage == "int8" else None
        for shard, places, local in plan.pieces:
            ends = self._mapped(shard, "token_ends")
            starts_B, ends_B = np.where(local == 0, 0, ends[local - 1]), ends[local]
            tokens_TE = self._mapped(shard, "tokens")
            scale_T = None if scale_BL is None else self._mapped(shard, "token_scale")
            # A caption's tokens lie side by side: one copy each is faster than an index per token.
            for place, start, end in zip(places.tolist(), starts_B.tolist(), ends_B.tolist(), strict=True):
                tokens_BLE[place, : end - start] = tokens_TE[start:end]
                mask_BL[place, : end - start] = True
                if scale_BL is not None and scale_T is not None:
                    scale_BL[place, : end - start] = scale_T[start:end]
        stored_BLE = torch.from_numpy(tokens_BLE)
        if self._text.storage == "bfloat16":
            stored_BLE = stored_BLE.view(torch.bfloat16)
        features_BLE = unpack_tokens(stored_BLE, None if scale_BL is None else torch.from_numpy(scale_BL))
        return TextCondition(features_BLE, torch.from_numpy(mask_BL), self._rows("pooled", plan), dropped_B.clone())

    def _encoded_text(self, text: TextInfo, indices: Tensor, dropped_B: Tensor) -> TextCondition:
        """The same from the captions, by the encoders that the store names."""
        if self._encoder is None:
            self._encoder = _open_captions(self._folder, text)
        encoded = self._encoder.encode(self.captions(indices))
        tokens_BLE = torch.zeros(len(indices), text.max_tokens, text.token_dim)
        mask_BL = torch.zeros(tokens_BLE.shape[:2], dtype=torch.bool)
        for place, tokens_LE in enumerate(encoded.tokens):
            tokens_BLE[place, : len(tokens_LE)] = tokens_LE
            mask_BL[place, : len(tokens_LE)] = True
        return TextCondition(tokens_BLE, mask_BL, encoded.pooled_BP, dropped_B.clone())

    def features(self, indices: Tensor) -> Tensor:
        """Image features, float32 [B, N, Z], patches in row-major order."""
        assert self._has_features, "image features asked of a store without them"
        return self._rows("features", self._plan(indices)).float()

    def captions(self, indices: Tensor) -> list[str]:
        """The captions themselves."""
        assert self._text is not None, "captions asked of a store without them"
        plan = self._plan(indices)
        captions = [""] * plan.total
        for shard, places, local in plan.pieces:
            of_shard = self._shard_captions(shard)
            for place, row in zip(places.tolist(), local.tolist(), strict=True):
                captions[place] = of_shard[row]
        return captions

    def subjects(self, indices: Tensor) -> Tensor:
        """What the images show, int64 [B]: places in `info.text.subjects`."""
        assert self._text is not None and self._text.subjects is not None, "subjects asked of a store without them"
        return self._rows("subjects", self._plan(indices))

    def _view(self, name: str, plan: _Plan, flip_B: Tensor | None) -> Tensor:
        rows_BCHW = self._rows(name, plan)
        if flip_B is not None:
            assert self.flip, "flips asked of a store without mirrored moments"
            rows_BCHW = torch.where(flip_B[:, None, None, None], self._rows(f"{name}_flip", plan), rows_BCHW)
        return rows_BCHW.float()

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
            rows[places] = self._mapped(shard, name)[local]
        return torch.from_numpy(rows)

    def _mapped(self, shard: int, name: str) -> NDArray[Any]:
        """One tensor of one shard, on the file's memory map."""
        if shard not in self._maps:
            # Two threads may map the same file at once: one of the maps is then dropped.
            self._maps.setdefault(shard, np.memmap(self._paths[shard], dtype=np.uint8, mode="r"))
        layout: TensorLayout = self._layouts[shard][name]
        return np.ndarray(layout.shape, dtype=layout.dtype, buffer=self._maps[shard], offset=layout.offset)

    def _shard_captions(self, shard: int) -> list[str]:
        if shard not in self._captions:
            self._captions.setdefault(shard, _read_captions(self._folder, self._shards[shard]))
        return self._captions[shard]


def _read_captions(folder: Path, shard: Shard) -> list[str]:
    assert shard.captions is not None  # read_info compared it with info.text
    path = folder / shard.captions.file
    check_size(path, shard.captions)
    try:
        captions: list[str] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); run: {making(folder)}") from error
    if len(captions) != shard.count:
        raise DataError(f"{path}: {len(captions)} captions for {shard.count} images; run: {making(folder)}")
    return captions


def _open_captions(folder: Path, text: TextInfo) -> CaptionEncoder:
    """The encoders whose features the store leaves to its readers."""
    assert text.section is not None  # it is there on the fly
    encoder = CaptionEncoder(text.section)
    if encoder.identities != text.encoders:
        raise DataError(
            f"{folder / STORE_FILE}: the text encoder in {text.section.tokens.path} is another now; put the former one back or "
            f"run: {making(folder)} --force"
        )
    return encoder


class _Plan(NamedTuple):
    """Batch size, and for each touched shard: its number, places in the batch, rows in the shard."""

    total: int
    pieces: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]
