"""The latent store on disk: a folder with `store.json` and safetensors shards. Writer and reader share this module.

A shard holds, for n images, float32 or float16 [n, C, H, W] `mean` and (unless the encoder is deterministic) `std` of the
encoder's posterior, raw: the latent scale is applied by the reader; with `flip` also `mean_flip` and `std_flip`, the moments of the
mirrored image; and `labels`, int64 [n]. Storing moments rather than one draw keeps posterior sampling and flips random per visit,
so that a cache changes speed and not statistics. `encoder/` holds the autoencoder's own files (nothing for the identity), so that
latents can be decoded wherever the store is. Images of a split are in a seeded random order: any prefix is a fair sample.

With captions a shard also holds their features, not padded: `tokens` [tokens of all n captions, E] in float16, bfloat16 or int8,
where caption i ends before row `token_ends[i]` (int64 [n]), and `pooled` float32 [n, P]; int8 is to be multiplied by `token_scale`,
float32 [tokens], a 127th of each token's largest magnitude. A store whose features are computed on the fly has none of these. Where
the source has subjects, `subjects` is int64 [n]. The captions themselves are a JSON list in a file of their own. With image
features, `features` is float16 [n, N, Z], patches in row-major order.

Images that were left out are named in `store.json`, or, if there are many, in a file beside it.

Legend: n images, C channels, H W latent height and width, E token feature width, P pooled width, N patches, Z image feature width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mudit.config.data import CaptionSection
from mudit.config.wording import first_problem
from mudit.errors import DataError
from mudit.files import sha256_file, write_text
from mudit.stages import RESULTS

FORMAT: Literal["mudit-latents"] = "mudit-latents"
VERSION: Literal[4] = 4
STORE_FILE = "store.json"
ENCODER_FOLDER = "encoder"
SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, ...] = ("train", "validation")

LEFT_OUT_FILE = "left-out.json"

_SAFETENSORS_DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "I8": "|i1", "I64": "<i8"}  # numpy has no bfloat16: its bits
_FLOAT, _INTEGER = "<f4", "<i8"
_MOMENTS = {"float32": _FLOAT, "float16": "<f2"}
_TOKENS = {"float16": "<f2", "bfloat16": "<u2", "int8": "|i1"}

Identity = dict[str, str | int]
"""What a source or an encoder is: name, and versions, sizes or digests that tell it from others of that name."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredFile(_Record):
    """A file of the store."""

    file: str
    bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Shard(StoredFile):
    """One safetensors file. `count` may be below the nominal shard size: unreadable images leave gaps."""

    count: int = Field(gt=0)
    captions: StoredFile | None = Field(description="JSON list of the images' captions; null in a store without text")

    def files(self) -> list[StoredFile]:
        """Every file of the shard."""
        return [self] if self.captions is None else [self, self.captions]


class Split(_Record):
    """The images of one split, in the order of their shards."""

    count: int = Field(ge=0)
    shards: list[Shard]


class Corrupt(_Record):
    """Images that are absent from the store, and captions that belong to none."""

    count: int = Field(ge=0, description="unreadable images and those without a caption")
    without_caption: int = Field(ge=0)
    names: list[str] = Field(description="of all; empty if they are in the file")
    file: StoredFile | None = Field(description="JSON list of the names")
    unused_captions: int = Field(ge=0)
    unlisted_images: int = Field(ge=0, description="images of a folder that its metadata does not name; not among `count`")


class TextInfo(_Record):
    """Text features of a store with captions."""

    token_dim: int = Field(gt=0, description="E")
    pooled_dim: int = Field(gt=0, description="P")
    max_tokens: int = Field(gt=0, description="captions were cut to this many tokens; the reader pads to it")
    cut: int = Field(ge=0, description="captions that were longer")
    storage: Literal["float16", "bfloat16", "int8", "on-the-fly"]
    relative_error: float | None = Field(
        description="root mean square of what the type changed in the token features, over that of the features; null on the fly"
    )
    section: CaptionSection | None = Field(description="the encoders, for features on the fly; null if features are stored")
    encoders: dict[Literal["tokens", "pooled"], Identity]
    subjects: list[str] | None = Field(description="what the images show, where the source says so; a split holds whole subjects")


class FeatureInfo(_Record):
    """Image features of a store that has them."""

    grid: int = Field(gt=0, description="N is grid * grid")
    dim: int = Field(gt=0, description="Z")
    encoder: Identity


class Expected(NamedTuple):
    """What a tensor of a shard must be: numpy's name of its type, and its shape, None where a length is the shard's own matter."""

    dtype: str
    shape: tuple[int | None, ...]


class StoreInfo(_Record):
    """Contents of `store.json`."""

    format: Literal["mudit-latents"]
    version: Literal[4]
    source: Identity
    encoder: Identity
    latent_shape: tuple[int, int, int] = Field(description="C, H, W")
    latent_scale: float = Field(gt=0, description="what the transformer sees is (raw latents - latent_shift) * latent_scale")
    latent_shift: float = Field(allow_inf_nan=False)
    moments: Literal["float32", "float16"] = Field(description="type of the moments on disk")
    has_std: bool = Field(description="false: the encoder is deterministic and shards hold no std")
    flip: bool = Field(description="shards hold the moments of mirrored images too")
    num_classes: int = Field(gt=0)
    class_names: list[str]
    text: TextInfo | None
    features: FeatureInfo | None
    splits: dict[SplitName, Split]
    corrupt: Corrupt

    def files(self) -> list[StoredFile]:
        """Every file of the store with its checksum, but for the autoencoder's own and `store.json`."""
        shards = [entry for split in self.splits.values() for shard in split.shards for entry in shard.files()]
        return [*shards, self.corrupt.file] if self.corrupt.file is not None else shards

    def tensors(self, count: int) -> dict[str, Expected]:
        """Name -> type and shape of each tensor in a shard of `count` images."""
        moments = ["mean", "std"] if self.has_std else ["mean"]
        if self.flip:
            moments += [f"{name}_flip" for name in moments]
        expected = dict.fromkeys(moments, Expected(_MOMENTS[self.moments], (count, *self.latent_shape)))
        expected["labels"] = Expected(_INTEGER, (count,))
        if self.text is not None:
            if self.text.storage != "on-the-fly":
                expected["tokens"] = Expected(_TOKENS[self.text.storage], (None, self.text.token_dim))
                expected["token_ends"] = Expected(_INTEGER, (count,))
                expected["pooled"] = Expected(_FLOAT, (count, self.text.pooled_dim))
            if self.text.storage == "int8":
                expected["token_scale"] = Expected(_FLOAT, (None,))
            if self.text.subjects is not None:
                expected["subjects"] = Expected(_INTEGER, (count,))
        if self.features is not None:
            expected["features"] = Expected("<f2", (count, self.features.grid**2, self.features.dim))
        return expected


def making(folder: Path) -> str:
    """The command that makes a damaged or outdated store again, with its experiment if `folder` is `results/EXPERIMENT/data`."""
    named = folder.name == "data" and folder.parent.parent.name == RESULTS.name
    return f"mudit data {folder.parent.name if named else 'EXPERIMENT'}"


def write_info(folder: Path, info: StoreInfo) -> None:
    """Writes `store.json` in one rename."""
    text = json.dumps(info.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    write_text(folder / STORE_FILE, text, durable=True)


def read_info(folder: Path) -> StoreInfo:
    """Reads `store.json`. Raises DataError if it is missing, is of another format or version, or does not add up."""
    path = folder / STORE_FILE
    if not path.is_file():
        raise DataError(f"{path}: no latent store here; run: {making(folder)}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); run: {making(folder)}") from error
    if not isinstance(raw, dict) or (raw.get("format"), raw.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{path}: not a {FORMAT} store of version {VERSION}; run: {making(folder)}")
    try:
        info = StoreInfo.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{path}: {first_problem(error)}; run: {making(folder)}") from error
    for name, split in info.splits.items():
        if split.count != sum(shard.count for shard in split.shards):
            raise DataError(f"{path}: the shards of split {name} do not hold {split.count} images; run: {making(folder)}")
        if any((shard.captions is None) != (info.text is None) for shard in split.shards):
            raise DataError(f"{path}: some shards of split {name} have captions and some have not; run: {making(folder)}")
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
    size = check_size(path, shard)
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if not 2 <= header_bytes <= size - 8:
            raise DataError(f"{path}: not a safetensors file; run: {making(path.parent)}")
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
            raise DataError(f"{path}: damaged safetensors header; run: {making(path.parent)}") from error
    expected = info.tensors(shard.count)
    if set(layout) != set(expected) or not all(_fits(layout[name], want) for name, want in expected.items()):
        found = {name: (tensor.dtype, tensor.shape) for name, tensor in layout.items()}
        wanted = {name: tuple(want) for name, want in expected.items()}
        raise DataError(f"{path}: shard holds {found}, {STORE_FILE} says {wanted}; run: {making(path.parent)}")
    return layout


def _fits(found: TensorLayout, expected: Expected) -> bool:
    same_rank = len(found.shape) == len(expected.shape)
    return (
        found.dtype == expected.dtype
        and same_rank
        and all(want in (None, have) for have, want in zip(found.shape, expected.shape, strict=True))
    )


def check_size(path: Path, entry: StoredFile) -> int:
    """Bytes of a file of the store. Raises DataError if it is missing or has another size than `store.json` says."""
    if not path.is_file():
        raise DataError(f"{path}: shard is missing; run: {making(path.parent)}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise DataError(f"{path}: shard has {size} bytes, {STORE_FILE} says {entry.bytes}; run: {making(path.parent)}")
    return size


def stored_file(path: Path) -> dict[str, str | int]:
    """Fields of `StoredFile` for a file that has just been written."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
