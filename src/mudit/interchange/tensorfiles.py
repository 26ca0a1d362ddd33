"""Reading safetensors files and folders of them from elsewhere, trusting no header and no index.

A file is the header's length (8 bytes), the header (JSON: name -> dtype, shape, where its bytes lie) and the bytes. Everything the
header says is checked before a tensor is made of it, so that errors name what is wrong.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mudit.errors import CheckpointError

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}
_LARGEST_HEADER = 100 << 20  # bytes, as in safetensors' own reader
_LARGEST_JSON = 64 << 20


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file. Raises CheckpointError."""
    _check_header(path, *_read_header(path))
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged ({str(error).splitlines()[0]}); fetch it again") from error


def read_shards(index: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """The tensors that an index (`*.safetensors.index.json`) spreads over files beside it, and those files.

    Raises CheckpointError if the index names anything but files of its folder, or does not say exactly what they hold.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no weight_map; it is not the index of a sharded checkpoint")
    files = []
    for name in sorted({str(file) for file in weight_map.values()}):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names {name!r}, which is not a safetensors file of its own folder")
        files.append(inside(index.parent, index.parent / name))
    tensors: dict[str, Tensor] = {}
    for file in files:
        shard = read_tensors(file)
        if twice := sorted(shard.keys() & tensors.keys()):
            raise CheckpointError(f"{file}: {twice[0]} is in another shard too")
        planned = {name for name, place in weight_map.items() if place == file.name}
        if wrong := sorted(planned ^ shard.keys()):
            raise CheckpointError(f"{file}: {wrong[0]} is {'not there' if wrong[0] in planned else 'not in the index'}")
        tensors |= shard
    return tensors, files


def inside(folder: Path, path: Path) -> Path:
    """`path`, which must be a regular file of the folder; the hub's cache may hold it as a link to its own `blobs`.

    Raises CheckpointError for what is missing, is no file, or is a link to elsewhere.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; fetch the folder again")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a regular file")
    roots = [folder.resolve()]
    # models--NAME/snapshots/REVISION/...: links to models--NAME/blobs.
    roots += [parent.parent / "blobs" for parent in roots[0].parents if parent.name == "snapshots"][:1]
    if not any(path.resolve().is_relative_to(root) for root in roots):
        raise CheckpointError(f"{path}: a link that leaves its folder; put the file itself there")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object without repeated keys. Raises CheckpointError."""
    if path.stat().st_size > _LARGEST_JSON:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes of JSON; the file is not what its name says")
    return _parse(path, path.read_bytes(), "JSON")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, as it stands, and how many bytes follow it."""
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path}: empty; fetch it again")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= size - 8:
            raise CheckpointError(
                f"{path}: not a whole safetensors file: its header would have {length} bytes, the file has {size}"
            )
        if length > _LARGEST_HEADER:
            raise CheckpointError(f"{path}: a safetensors header of {length} bytes; at most {_LARGEST_HEADER} are read")
        return _parse(path, file.read(length), "safetensors header"), size - 8 - length


def _parse(path: Path, text: bytes, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise CheckpointError(f"{path}: {what} names {next(name for name in names if names.count(name) > 1)!r} twice")
        return found

    try:
        parsed = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: damaged {what} ({error})") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: {what} is not an object")
    return parsed


def _check_header(path: Path, header: dict[str, Any], room: int) -> None:
    """Known types, and tensors that fill the `room` bytes exactly: no overlap, no gap, none beyond the end."""
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = [*shape, start, end]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: the header's entry of {name} lacks its dtype, shape or place") from error
        if kind not in _BITS:
            raise CheckpointError(f"{path}: {name} is of the type {kind}, which is not read; store float32, float16 or bfloat16")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise CheckpointError(f"{path}: the header's entry of {name} has a size that is no count")
        if math.prod(shape) * _BITS[kind] != 8 * (end - start):
            raise CheckpointError(
                f"{path}: {name} of shape {tuple(shape)} does not take the {end - start} bytes that its header says"
            )
        spans.append((start, end, name))
    place = 0
    for start, end, name in sorted(spans):
        if start != place:
            raise CheckpointError(
                f"{path}: {name} {'overlaps the tensor before it' if start < place else 'leaves a gap before it'}"
            )
        place = end
    if place != room:
        raise CheckpointError(f"{path}: its tensors take {place} bytes, the file holds {room}; cut short, or more was added")
