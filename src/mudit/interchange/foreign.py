"""What a path from elsewhere holds: one or two sets of weights with their names as found, and what it says of itself.

Read are PyTorch files (a state dict, or a training checkpoint with one under `model`, `ema`, `state_dict` or `state_dict_ema`),
single safetensors files, folders that `diffusers` wrote (a pipeline's or a transformer's own), and the folders of `mudit export`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mudit.errors import CheckpointError
from mudit.interchange.architecture import Family, Stated
from mudit.interchange.pickles import read_pickle, tensors_of
from mudit.interchange.tensorfiles import inside, read_json, read_shards, read_tensors

Variant = Literal["raw", "ema"]
PLAIN_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
NULL_CAPTION_FILE = "null_caption.safetensors"

# Key of a training checkpoint -> what lies under it. facebookresearch's DiT and the authors' DiT; PixArt-alpha and theirs.
_SETS: dict[str, Variant] = {"model": "raw", "state_dict": "raw", "ema": "ema", "state_dict_ema": "ema"}
_WEIGHTS = "diffusion_pytorch_model"
# Before diffusers 0.28 DiT and PixArt were settings of one class.
_CLASSES: dict[Family, tuple[str, ...]] = {
    "dit": ("DiTTransformer2DModel", "Transformer2DModel"),
    "pixart": ("PixArtTransformer2DModel", "Transformer2DModel"),
    "uvit": (),
    "mmdit": ("SD3Transformer2DModel",),
}
_NORMS = {"dit": "ada_norm_zero", "pixart": "ada_norm_single"}


@dataclass(frozen=True)
class Foreign:
    """A checkpoint as found. `config` is diffusers' own; `described` is the description in a folder that mudit exported."""

    layout: Literal["published", "diffusers"]
    variants: dict[Variant, dict[str, Tensor]]
    files: list[Path]
    note: str
    config: dict[str, Any] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    null_caption: Tensor | None = None
    ignored: list[str] = field(default_factory=list)

    def stated(self) -> Stated:
        """What the checkpoint's own configuration says of its architecture. Raises CheckpointError for a value that is no count."""
        model = self.described.get("model") or {}
        if not isinstance(model, dict):
            raise CheckpointError(f"its {DESCRIPTION_FILE} says of the model {model!r}, which is no description")
        said = {
            "head_dim": self.config.get("attention_head_dim", model.get("head_dim")),
            "image_size": self.config.get("sample_size", model.get("image_size")),
            "max_tokens": model.get("max_tokens"),
            "position_table": self.config.get("pos_embed_max_size", model.get("position_table")),
        }
        for name, value in said.items():
            if value is not None and not (type(value) is int and value > 0):
                raise CheckpointError(f"its configuration says {name} {value!r}, which is no count")
        return Stated(**said)


def read(path: Path, family: Family) -> Foreign:
    """Raises CheckpointError, one line, for anything that is not a checkpoint which can be read without running it."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder(path, family)
    if not path.is_file():
        raise CheckpointError(f"{path}: neither a regular file nor a folder")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: empty; fetch it again")
    if path.suffix == ".safetensors":
        return Foreign("published", {"ema": read_tensors(path)}, [path], "the file's only set of weights, stored as ema")
    if path.name.endswith(".json"):
        raise CheckpointError(f"{path}: name the folder that holds it, or the file of weights")
    return _pickle(path)


def _pickle(path: Path) -> Foreign:
    content = read_pickle(path)
    whole = tensors_of(path, content)
    if whole is not None:
        return Foreign("published", {"ema": whole}, [path], "the file's only set of weights, stored as ema")
    variants: dict[Variant, dict[str, Tensor]] = {}
    for key, variant in _SETS.items():
        tensors = tensors_of(path, content.get(key))
        if tensors is None:
            if content.get(key):
                raise CheckpointError(f"{path}: what lies under {key} is no state dict; save the weights that you mean alone")
            continue
        if variant in variants:
            raise CheckpointError(f"{path}: holds several sets of {variant} weights; save the one that you mean alone")
        variants[variant] = tensors
    if not variants:
        keys = ", ".join(list(content)[:6]) or "none"
        raise CheckpointError(f"{path}: no weights under {', '.join(_SETS)}, nor is it a state dict; its keys: {keys}")
    ignored = [key for key in content if key not in _SETS]
    return Foreign("published", variants, [path], "a training checkpoint", ignored=ignored)


def _folder(path: Path, family: Family) -> Foreign:
    described = read_json(inside(path, path / DESCRIPTION_FILE)) if (path / DESCRIPTION_FILE).exists() else {}
    if described.get("format") == "mudit-imported":
        raise CheckpointError(f"{path}: mudit import wrote it; name it in a section `imported`, or import what it was made from")
    if described.get("family", family) != family:
        raise CheckpointError(f"{path}: holds a model of the family {described['family']}; import it --as {described['family']}")
    if described.get("format") == "safetensors":
        files = [inside(path, path / PLAIN_FILE)]
        return Foreign("published", {"ema": read_tensors(files[0])}, files, "a folder of mudit export", described=described)
    model = path / "transformer" if (path / "transformer").is_dir() else path
    if not (model / "config.json").exists():
        raise CheckpointError(f"{path}: no config.json, so not a folder of diffusers; for a checkpoint in one file name the file")
    config = read_json(inside(path, model / "config.json"))
    _check_class(model / "config.json", config, family)
    tensors, files = _weights(path, model)
    null = None
    if (path / NULL_CAPTION_FILE).exists():
        null_file = inside(path, path / NULL_CAPTION_FILE)
        files.append(null_file)
        null = read_tensors(null_file).get("tokens")
    return Foreign("diffusers", {"ema": tensors}, files, "diffusers' one set of weights, stored as ema", config, described, null)


def _weights(path: Path, model: Path) -> tuple[dict[str, Tensor], list[Path]]:
    readers: dict[str, Callable[[Path], tuple[dict[str, Tensor], list[Path]]]] = {
        f"{_WEIGHTS}.safetensors": lambda file: (read_tensors(inside(path, file)), [file]),
        f"{_WEIGHTS}.safetensors.index.json": lambda file: _shards(path, file),
        f"{_WEIGHTS}.bin": lambda file: (_bin(inside(path, file)), [file]),
    }
    there = [name for name in readers if (model / name).exists()]
    if not there:
        raise CheckpointError(f"{model}: no {_WEIGHTS}.safetensors, no index of shards, no .bin; fetch the folder again")
    if len(there) == 2 and there[1].endswith("index.json"):
        raise CheckpointError(f"{model}: holds {there[0]} and {there[1]}; remove the one that does not belong")
    return readers[there[0]](model / there[0])


def _shards(path: Path, index: Path) -> tuple[dict[str, Tensor], list[Path]]:
    tensors, files = read_shards(inside(path, index))
    return tensors, [index, *files]


def _bin(file: Path) -> dict[str, Tensor]:
    tensors = tensors_of(file, read_pickle(file))
    if tensors is None:
        raise CheckpointError(f"{file}: not a state dict: it holds more than tensors")
    return tensors


def _check_class(path: Path, config: dict[str, Any], family: Family) -> None:
    found, known = config.get("_class_name"), _CLASSES[family]
    if not known:
        raise CheckpointError(f"{path}: diffusers has no {family} of the published form; import its .pth")
    if found not in known:
        raise CheckpointError(f"{path}: of the class {found}, not {known[0]}; is --as {family} right?")
    norm = config.get("norm_type", _NORMS.get(family))
    if norm != _NORMS.get(family):
        raise CheckpointError(f"{path}: norm_type {norm} is not the {family} model's {_NORMS[family]}")
    if config.get("interpolation_scale") not in (None, 1, 1.0):
        raise CheckpointError(f"{path}: positions are interpolated by {config['interpolation_scale']}, which our model does not do")
