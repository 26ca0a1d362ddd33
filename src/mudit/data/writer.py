"""Writes the latent store shard by shard: memory stays flat, and a killed run goes on at the first missing shard.

Legend: B images of one call of the encoders, C H W channels, height and width.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from mudit.config.data import DataSection
from mudit.data.encoders import Encoder
from mudit.data.features import FeatureEncoder
from mudit.data.format import (
    ENCODER_FOLDER,
    FORMAT,
    SPLITS,
    VERSION,
    Corrupt,
    FeatureInfo,
    Shard,
    Split,
    StoredFile,
    StoreInfo,
    TextInfo,
    stored_file,
    write_info,
)
from mudit.data.images import UnreadableImageError
from mudit.data.sources import Source
from mudit.data.tensors import save_tensors, to_half
from mudit.data.text import CaptionEncoder
from mudit.errors import DataError

ENCODE_BATCH = 32  # images per encoder call: bounds memory, changes nothing else
PLAN_FILE = "plan.json"


class _Done:
    """What one finished shard left behind: its entry in the store (None if every image was unreadable) and the unreadable names."""

    def __init__(self, shard: Shard | None, corrupt: list[str]) -> None:
        self.shard, self.corrupt = shard, corrupt

    def to_json(self) -> dict[str, object]:
        return {"shard": self.shard and self.shard.model_dump(), "corrupt": self.corrupt}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> _Done:
        return cls(raw["shard"] and Shard.model_validate(raw["shard"]), raw["corrupt"])


class _Batches:
    """What the encoders made of one shard so far."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[Tensor]] = {}
        self.lengths: list[int] = []  # tokens of each caption
        self.captions: list[str] = []
        self.corrupt: list[str] = []

    def add(self, name: str, rows: Tensor) -> None:
        """Appends the rows of one call."""
        self.tensors.setdefault(name, []).append(rows)


class StoreWriter:
    """One preparation of one source with one encoder into `out`, with unfinished work in `state`.

    Shard k of a split always covers the same positions of the split's order, so shards are independent of each other and of how
    often the run was killed. The folder `state` may lie on another file system than `out`.
    """

    def __init__(
        self,
        data: DataSection,
        source: Source,
        encoder: Encoder,
        out: Path,
        state: Path,
        text: CaptionEncoder | None = None,
        features: FeatureEncoder | None = None,
    ) -> None:
        """text: for a source that has captions. Raises ConfigError or DataError if images cannot be held out as asked."""
        assert text is None or source.has_captions
        self._data, self._source, self._encoder, self._out, self._state = data, source, encoder, out, state
        self._text, self._features = text, features
        self._orders = source.split(data.validation_images, data.split_seed)

    def write(self, advance: Callable[[int], None]) -> StoreInfo:
        """Writes every shard, the encoder's files and `store.json`; calls `advance(images)` after each shard.

        Raises DataError when more than `data.max_corrupt_share` of the images cannot be read, naming them.
        """
        self._start_or_resume()
        total, seen = len(self._source.names), 0
        shards: dict[str, list[Shard]] = {name: [] for name in SPLITS}
        corrupt: list[str] = []
        for split in SPLITS:
            order = self._orders[split]
            for number, start in enumerate(range(0, len(order), self._data.shard_images)):
                indices = order[start : start + self._data.shard_images]
                done = self._shard(f"{split}-{number:05d}", indices)
                corrupt += done.corrupt
                seen += len(indices)
                self._check_share(corrupt, seen, total)
                if done.shard is not None:
                    shards[split].append(done.shard)
                advance(len(indices))
        info = self._info(shards, corrupt)
        for entry in (entry for split in info.splits.values() for shard in split.shards for entry in shard.files()):
            shutil.move(self._state / entry.file, self._out / entry.file)
        self._encoder.save(self._out / ENCODER_FOLDER)
        write_info(self._out, info)
        shutil.rmtree(self._state)
        return info

    def _start_or_resume(self) -> None:
        """Keeps finished shards only if they were made from the same images, by the same encoder, with the same settings."""
        plan = {
            "data": self._data.model_dump(mode="json"),
            "source": self._source.identity,
            "encoder": self._encoder.identity,
            "text": self._text and self._text.identities,
            "features": self._features and self._features.identity,
        }
        text = json.dumps(plan, sort_keys=True)
        path = self._state / PLAN_FILE
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        shutil.rmtree(self._state, ignore_errors=True)
        self._state.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")

    def _shard(self, name: str, indices: NDArray[np.int64]) -> _Done:
        """One shard: from the state folder if it was finished before, else read, encoded and written there."""
        path, record = self._state / f"{name}.safetensors", self._state / f"{name}.json"
        if record.is_file():
            done = _Done.from_json(json.loads(record.read_text(encoding="utf-8")))
            # A run that was killed while it moved shards to `out` leaves records without files.
            if done.shard is None or all((self._state / entry.file).is_file() for entry in done.shard.files()):
                return done
        batches = _Batches()
        for start in range(0, len(indices), ENCODE_BATCH):
            self._encode([int(index) for index in indices[start : start + ENCODE_BATCH]], batches)
        done = _Done(self._save(path, batches), batches.corrupt)
        _write_text(record, json.dumps(done.to_json()))
        return done

    def _save(self, path: Path, batches: _Batches) -> Shard | None:
        """Writes the shard's files; none if no image of it could be read."""
        if not batches.tensors:
            return None
        tensors = {name: torch.cat(parts).contiguous() for name, parts in batches.tensors.items()}
        if self._text is not None:
            tensors["token_ends"] = torch.tensor(batches.lengths, dtype=torch.int64).cumsum(0)
        save_tensors(tensors, path)
        captions = None
        if self._text is not None:
            captions_path = path.with_name(f"{path.stem}.captions.json")
            _write_text(captions_path, json.dumps(batches.captions, ensure_ascii=False, indent=0) + "\n")
            captions = StoredFile.model_validate(stored_file(captions_path))
        return Shard.model_validate({**stored_file(path), "count": len(tensors["labels"]), "captions": captions})

    def _encode(self, indices: list[int], batches: _Batches) -> None:
        """Adds everything that the store holds of the readable images among `indices`, and the names of the others."""
        read: list[int] = []
        pixels: list[Tensor] = []
        captions: list[str] = []
        for index in indices:
            try:
                caption = self._source.caption(index) if self._text is not None else ""
                pixels.append(torch.from_numpy(self._source.read(index)))
            except UnreadableImageError:
                batches.corrupt.append(self._source.names[index])
            else:
                read.append(index)
                captions.append(caption)
        if not read:
            return
        pixels_BCHW = torch.stack(pixels)
        self._encode_views(pixels_BCHW, batches)
        batches.add("labels", torch.from_numpy(self._source.labels_n[read]))
        if self._text is not None:
            encoded = self._text.encode(captions)
            batches.captions += captions
            batches.lengths += [len(tokens) for tokens in encoded.tokens]
            batches.add("tokens", torch.cat(encoded.tokens))
            batches.add("pooled", encoded.pooled_BP)
            if self._source.subjects_n is not None:
                batches.add("subjects", torch.from_numpy(self._source.subjects_n[read]))
        if self._features is not None:
            batches.add("features", to_half(self._features.encode(pixels_BCHW), "data.features"))

    def _encode_views(self, pixels_BCHW: Tensor, batches: _Batches) -> None:
        views = {"": pixels_BCHW, "_flip": pixels_BCHW.flip(-1)} if self._data.flip else {"": pixels_BCHW}
        for suffix, view_BCHW in views.items():
            mean_BCHW, std_BCHW = self._encoder.encode(view_BCHW)
            batches.add(f"mean{suffix}", mean_BCHW)
            if std_BCHW is not None:
                batches.add(f"std{suffix}", std_BCHW)

    def _check_share(self, corrupt: list[str], seen: int, total: int) -> None:
        if len(corrupt) > self._data.max_corrupt_share * total:
            more = f" and {len(corrupt) - 5} more" if len(corrupt) > 5 else ""
            lack = "cannot be read" if self._text is None else "cannot be read or have no caption"
            raise DataError(
                f"{len(corrupt)} of the first {seen} images (of {total}) {lack}: {', '.join(corrupt[:5])}{more}; "
                f"mend or remove them, or raise data.max_corrupt_share from {self._data.max_corrupt_share}"
            )

    def _info(self, shards: dict[str, list[Shard]], corrupt: list[str]) -> StoreInfo:
        if not shards["train"]:
            raise DataError("no training image could be read; check data.source")
        shapes = _shapes(self._state / shards["train"][0].file)
        _, channels, height, width = shapes["mean"]
        return StoreInfo.model_validate(
            {
                "format": FORMAT,
                "version": VERSION,
                "source": self._source.identity,
                "encoder": self._encoder.identity,
                "latent_shape": (channels, height, width),
                "latent_scale": self._encoder.latent_scale,
                "has_std": self._encoder.has_std,
                "flip": self._data.flip,
                "num_classes": len(self._source.class_names),
                "class_names": self._source.class_names,
                "text": self._text_info(self._text, shapes) if self._text is not None else None,
                "features": self._feature_info(self._features) if self._features is not None else None,
                "splits": {name: Split(count=sum(shard.count for shard in parts), shards=parts) for name, parts in shards.items()},
                "corrupt": Corrupt(count=len(corrupt), names=sorted(corrupt)),
            }
        )

    def _text_info(self, text: CaptionEncoder, shapes: dict[str, list[int]]) -> TextInfo:
        return TextInfo(
            token_dim=shapes["tokens"][1],
            pooled_dim=shapes["pooled"][1],
            max_tokens=text.max_tokens,
            encoders=text.identities,
            subjects=self._source.subject_names,
        )

    def _feature_info(self, features: FeatureEncoder) -> FeatureInfo:
        return FeatureInfo(grid=features.grid, dim=features.dim, encoder=features.identity)


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="pt") as shard:
        return {name: list(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118  # not a dictionary


def _write_text(path: Path, text: str) -> None:
    """Writes a small file in one rename, so that its presence means that it is whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
