"""The latent store on disk: a folder with `store.json` and safetensors shards. Writer and reader share this module.

A shard holds, for n images, float32 [n, C, H, W] `mean` and (unless the encoder is deterministic) `std` of the encoder's posterior,
raw: the latent scale is applied by the reader; with `flip` also `mean_flip` and `std_flip`, the moments of the mirrored image; and
`labels`, int64 [n]. Storing moments rather than one draw keeps posterior sampling and flips random per visit, so that a cache
changes speed and not statistics. `encoder/` holds the autoencoder's own files (nothing for the identity), so that latents can be
decoded wherever the store is. Images of a split are in a seeded random order: any prefix is a fair sample.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mudit.errors import DataError

FORMAT = "mudit-latents"
VERSION = 1
STORE_FILE = "store.json"
ENCODER_FOLDER = "encoder"
SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, ...] = ("train", "validation")

_SAFETENSORS_DTYPES = {"F32": "<f4", "I64": "<i8"}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Record):
    """One safetensors file. `count` may be below the nominal shard size: unreadable images leave gaps."""

    file: str
    count: int = Field(gt=0)
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Split(_Record):
    """The images of one split, in the order of their shards."""

    count: int = Field(ge=0)
    shards: list[Shard]


class Corrupt(_Record):
    """Images that could not be read and are absent from the store."""

    count: int = Field(ge=0)
    names: list[str]


class StoreInfo(_Record):
    """Contents of `store.json`."""

    format: Literal["mudit-latents"]
    version: Literal[1]
    source: dict[str, str | int]
    encoder: dict[str, str | int]
    latent_shape: tuple[int, int, int] = Field(description="C, H, W")
    latent_scale: float = Field(gt=0, description="raw latents times this is what the transformer sees")
    has_std: bool = Field(description="false: the encoder is deterministic and shards hold no std")
    flip: bool = Field(description="shards hold the moments of mirrored images too")
    num_classes: int = Field(gt=0)
    class_names: list[str]
    splits: dict[SplitName, Split]
    corrupt: Corrupt

    def tensors(self) -> list[str]:
        """Names of the moment tensors in each shard."""
        names = ["mean", "std"] if self.has_std else ["mean"]
        return names + [f"{name}_flip" for name in names] if self.flip else names


def write_info(folder: Path, info: StoreInfo) -> None:
    """Writes `store.json` in one rename."""
    temporary = folder / f".{STORE_FILE}.partial"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(info.model_dump(mode="json"), file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / STORE_FILE)


def read_info(folder: Path) -> StoreInfo:
    """Reads `store.json`. Raises DataError if it is missing, is of another format or version, or does not add up."""
    path = folder / STORE_FILE
    if not path.is_file():
        raise DataError(f"{path}: no latent store here; run `mudit data` first")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); run `mudit data` again") from error
    if not isinstance(raw, dict) or (raw.get("format"), raw.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{path}: not a {FORMAT} store of version {VERSION}; run `mudit data` again")
    try:
        info = StoreInfo.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; run `mudit data` again") from error
    for name, split in info.splits.items():
        if split.count != sum(shard.count for shard in split.shards):
            raise DataError(f"{path}: the shards of split {name} do not hold {split.count} images; run `mudit data` again")
    return info


class TensorLayout(BaseModel):
    """Where one tensor lies in a shard file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


def shard_layout(path: Path, shard: Shard, info: StoreInfo) -> dict[str, TensorLayout]:
    """Tensor name -> numpy dtype, shape and byte offset, from the safetensors header, checked against `store.json`.

    Parsed here because safetensors' own reader cannot gather rows from a memory map. Raises DataError if the file is missing,
    cut short, not safetensors, or holds other tensors than it should.
    """
    if not path.is_file():
        raise DataError(f"{path}: shard is missing; run `mudit data` again")
    size = path.stat().st_size
    if size != shard.bytes:
        raise DataError(f"{path}: shard has {size} bytes, {STORE_FILE} says {shard.bytes}; run `mudit data` again")
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if not 2 <= header_bytes <= size - 8:
            raise DataError(f"{path}: not a safetensors file; run `mudit data` again")
        try:
            header = json.loads(file.read(header_bytes))
            start = 8 + header_bytes
            layout = {
                name: TensorLayout(
                    dtype=_SAFETENSORS_DTYPES[entry["dtype"]], shape=entry["shape"], offset=start + entry["data_offsets"][0]
                )
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: damaged safetensors header; run `mudit data` again") from error
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(info.tensors(), (shard.count, *info.latent_shape))
    expected["labels"] = (shard.count,)
    found = {name: tensor.shape for name, tensor in layout.items()}
    if found != expected:
        raise DataError(f"{path}: shard holds {found}, {STORE_FILE} says {expected}; run `mudit data` again")
    return layout


def sha256_file(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
