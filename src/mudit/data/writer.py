"""Writes the latent store shard by shard: memory stays flat, and a killed run goes on at the first missing shard.

Shapes: n images of one shard, C H W channels, height and width.
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

from mudit.config.schema import DataSection
from mudit.data.encoders import Encoder
from mudit.data.format import ENCODER_FOLDER, FORMAT, SPLITS, VERSION, Corrupt, Shard, Split, StoreInfo, sha256_file, write_info
from mudit.data.sources import Source, UnreadableImageError, stratified_split
from mudit.data.tensors import save_tensors
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


class StoreWriter:
    """One preparation of one source with one encoder into `out`, with unfinished work in `state`.

    Shard k of a split always covers the same positions of the split's order, so shards are independent of each other and of how
    often the run was killed. The folder `state` may lie on another file system than `out`.
    """

    def __init__(self, data: DataSection, source: Source, encoder: Encoder, out: Path, state: Path) -> None:
        self._data, self._source, self._encoder, self._out, self._state = data, source, encoder, out, state
        self._orders = stratified_split(source.labels_N, data.validation_images, data.split_seed)

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
                done = self._shard(f"{split}-{number:05d}.safetensors", indices)
                corrupt += done.corrupt
                seen += len(indices)
                self._check_share(corrupt, seen, total)
                if done.shard is not None:
                    shards[split].append(done.shard)
                advance(len(indices))
        info = self._info(shards, corrupt)
        for entry in (shard for split in info.splits.values() for shard in split.shards):
            shutil.move(self._state / entry.file, self._out / entry.file)
        self._encoder.save(self._out / ENCODER_FOLDER)
        write_info(self._out, info)
        shutil.rmtree(self._state)
        return info

    def _start_or_resume(self) -> None:
        """Keeps finished shards only if they were made from the same images, by the same encoder, with the same settings."""
        plan = {"data": self._data.model_dump(mode="json"), "source": self._source.identity, "encoder": self._encoder.identity}
        text = json.dumps(plan, sort_keys=True)
        path = self._state / PLAN_FILE
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        shutil.rmtree(self._state, ignore_errors=True)
        self._state.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")

    def _shard(self, name: str, indices: NDArray[np.int64]) -> _Done:
        """One shard: from the state folder if it was finished before, else read, encoded and written there."""
        path, record = self._state / name, (self._state / name).with_suffix(".json")
        if record.is_file():
            done = _Done.from_json(json.loads(record.read_text(encoding="utf-8")))
            # A run that was killed while it moved shards to `out` leaves records without files.
            if done.shard is None or path.is_file():
                return done
        tensors, corrupt = self._encode(indices)
        shard = None
        if tensors:
            save_tensors(tensors, path)
            shard = Shard(file=name, count=len(tensors["labels"]), bytes=path.stat().st_size, sha256=sha256_file(path))
        done = _Done(shard, corrupt)
        _write_text(record, json.dumps(done.to_json()))
        return done

    def _encode(self, indices: NDArray[np.int64]) -> tuple[dict[str, Tensor], list[str]]:
        """Moments and labels of the readable images among `indices`, and the names of the others."""
        parts: dict[str, list[Tensor]] = {}
        labels: list[int] = []
        corrupt: list[str] = []
        for start in range(0, len(indices), ENCODE_BATCH):
            pixels: list[Tensor] = []
            for index in indices[start : start + ENCODE_BATCH]:
                try:
                    pixels.append(torch.from_numpy(self._source.read(int(index))))
                except UnreadableImageError:
                    corrupt.append(self._source.names[index])
                else:
                    labels.append(int(self._source.labels_N[index]))
            if pixels:
                self._encode_views(torch.stack(pixels), parts)
        if not labels:
            return {}, corrupt
        tensors = {name: torch.cat(values).contiguous() for name, values in parts.items()}
        tensors["labels"] = torch.tensor(labels, dtype=torch.int64)
        return tensors, corrupt

    def _encode_views(self, pixels_BCHW: Tensor, parts: dict[str, list[Tensor]]) -> None:
        views = {"": pixels_BCHW, "_flip": pixels_BCHW.flip(-1)} if self._data.flip else {"": pixels_BCHW}
        for suffix, view_BCHW in views.items():
            mean_BCHW, std_BCHW = self._encoder.encode(view_BCHW)
            parts.setdefault(f"mean{suffix}", []).append(mean_BCHW)
            if std_BCHW is not None:
                parts.setdefault(f"std{suffix}", []).append(std_BCHW)

    def _check_share(self, corrupt: list[str], seen: int, total: int) -> None:
        if len(corrupt) > self._data.max_corrupt_share * total:
            more = f" and {len(corrupt) - 5} more" if len(corrupt) > 5 else ""
            raise DataError(
                f"{len(corrupt)} of the first {seen} images (of {total}) cannot be read: {', '.join(corrupt[:5])}{more}; "
                f"mend or remove them, or raise data.max_corrupt_share from {self._data.max_corrupt_share}"
            )

    def _info(self, shards: dict[str, list[Shard]], corrupt: list[str]) -> StoreInfo:
        if not shards["train"]:
            raise DataError("no training image could be read; check data.path")
        return StoreInfo.model_validate(
            {
                "format": FORMAT,
                "version": VERSION,
                "source": self._source.identity,
                "encoder": self._encoder.identity,
                "latent_shape": _latent_shape(self._state / shards["train"][0].file),
                "latent_scale": self._encoder.latent_scale,
                "has_std": self._encoder.has_std,
                "flip": self._data.flip,
                "num_classes": len(self._source.class_names),
                "class_names": self._source.class_names,
                "splits": {name: Split(count=sum(shard.count for shard in parts), shards=parts) for name, parts in shards.items()},
                "corrupt": Corrupt(count=len(corrupt), names=sorted(corrupt)),
            }
        )


def _latent_shape(path: Path) -> tuple[int, int, int]:
    with safe_open(path, framework="pt") as shard:
        _, channels, height, width = shard.get_slice("mean").get_shape()
    return channels, height, width


def _write_text(path: Path, text: str) -> None:
    """Writes a small file in one rename, so that its presence means that it is whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
