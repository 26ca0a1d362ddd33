"""Finished weights of a target run: `model.json` says how to rebuild the module, safetensors files fill it.

A model of up to 5 GB is one file, `ema.safetensors`. A larger one is several, with an index as model hubs have it:
`ema-00001-of-00004.safetensors` and `ema.safetensors.index.json`. What the files are does not depend on how the model was sharded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor, nn

from mudit.config.models import MMDiTSection, ModelSection
from mudit.config.schema import Experiment
from mudit.data.tensors import save_tensors
from mudit.distributed import World, gather
from mudit.errors import CheckpointError
from mudit.files import sha256_file
from mudit.models.families import build
from mudit.parametrization.apply import attach_multipliers
from mudit.parametrization.table import table_for
from mudit.train.shards import whole_tensor

FILE_BYTES = 5_000_000_000  # largest file, unless one tensor is larger

_STEMS = {"ema": "ema", "raw": "weights"}


def save_weights(folder: Path, model: nn.Module, ema: nn.Module, description: dict[str, Any]) -> None:
    """`description` must name "scheme", "width" and "parametrization" (the table's digest).

    Called by every process of a run: tensors are put together one at a time, and each file is written by one rank, which alone
    holds it. Raises OSError on every rank if one of them cannot write; otherwise all files are complete when it returns.
    """
    _save_all(folder, {"raw": model, "ema": ema})
    if World.of_environment().main:
        save_description(folder, description)


def save_average(folder: Path, ema: nn.Module) -> None:
    """The average alone, without `model.json`; otherwise as `save_weights`."""
    _save_all(folder, {"ema": ema})


def save_description(folder: Path, description: dict[str, Any]) -> None:
    """`model.json`, as `save_weights` writes it."""
    (folder / "model.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def weight_files(folder: Path, which: Literal["ema", "raw"]) -> list[Path]:
    """The safetensors files of one set of weights, in order."""
    stem = _STEMS[which]
    index = folder / _index_name(stem)
    if not index.is_file():
        return [folder / f"{stem}.safetensors"]
    return [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]


def files_sha256(files: list[Path]) -> str:
    """Digests of `weight_files`, in one text: what tells one set of weights from another."""
    return " ".join(map(sha256_file, files))


def section_of(config: Experiment, description: dict[str, Any]) -> ModelSection:
    """The architecture whose weights a folder's `model.json` describes: the experiment's.

    What was imported lacks REPA's projector, which only training reads and nobody publishes; `projector` says so.
    """
    if description.get("projector", True):
        return config.model
    assert isinstance(config.model, MMDiTSection)
    return config.model.model_copy(update={"alignment": None})


def load_model(folder: Path, config: Experiment, which: Literal["ema", "raw"] = "ema") -> nn.Module:
    """The trained module, in evaluation mode. Raises CheckpointError if it belongs to another architecture or parametrization."""
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    section = section_of(config, description)
    table = table_for(section, description["width"], description["scheme"])
    if table.digest != description["parametrization"]:
        raise CheckpointError(f"{folder}: trained under another parameter table; run `mudit train` again")
    model = build(section, description["width"])
    attach_multipliers(model, table)
    found: dict[str, Tensor] = {}
    for file in weight_files(folder, which):
        found |= load_file(file)
    wanted = own_tensors(model)
    wrong = sorted(found.keys() ^ wanted.keys()) or [name for name in wanted if found[name].shape != wanted[name].shape]
    if wrong:
        raise CheckpointError(
            f"{folder / _STEMS[which]}.safetensors: tensors do not fit the model: {', '.join(wrong[:3])}; run `mudit train` again"
        )
    model.load_state_dict(found, strict=False)  # tied parameters are filled under their first name
    return model.requires_grad_(False).eval()


def _save_all(folder: Path, modules: dict[str, nn.Module]) -> None:
    refused: OSError | None = None
    for which, module in modules.items():
        refused = _save(folder, _STEMS[which], module) or refused
    refusals = [error for error in gather(refused) if error is not None]
    if refusals:
        raise refusals[0]


def _save(folder: Path, stem: str, module: nn.Module) -> OSError | None:
    """Write this rank's files. Returns why the disk refused one, for the other ranks are waiting in the next tensor."""
    refused = None
    tensors, world = own_tensors(module), World.of_environment()
    groups = _groups({name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()})
    files = _file_names(stem, len(groups))
    for number, (file, names) in enumerate(zip(files, groups, strict=True)):
        mine = number % world.size == world.rank
        held = {}
        for name in names:
            tensor = whole_tensor(tensors[name])  # all ranks take part
            if mine:
                held[name] = tensor.contiguous()
        if mine:
            try:
                save_tensors(held, folder / file)
            except OSError as error:
                refused = error
    if len(files) > 1 and world.main:
        index = {
            "metadata": {"total_size": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())},
            "weight_map": {name: file for file, names in zip(files, groups, strict=True) for name in names},
        }
        try:
            (folder / _index_name(stem)).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            refused = error
    return refused


def _groups(sizes: dict[str, int]) -> list[list[str]]:
    """Tensors of one file each, in the model's order. `sizes`: bytes by name."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > FILE_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _file_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _index_name(stem: str) -> str:
    return f"{stem}.safetensors.index.json"


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's state by name: its parameters, tied ones once, under their first name, and its persistent buffers."""
    tied = dict(module.named_parameters(remove_duplicate=False)).keys() - dict(module.named_parameters()).keys()
    return {name: tensor.detach() for name, tensor in module.state_dict().items() if name not in tied}
