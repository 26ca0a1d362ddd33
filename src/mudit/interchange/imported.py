"""The folder of `mudit import`, read again: as a module, or as what a target run would have left."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from torch import nn

from mudit.config.base import SchemeName
from mudit.config.models import AnyModel, TransformerSection
from mudit.errors import CheckpointError
from mudit.interchange.architecture import SECTION
from mudit.interchange.foreign import Variant
from mudit.interchange.importer import FILES, FORMAT, MODEL_FILE, VERSION
from mudit.interchange.tensorfiles import inside, read_json, read_tensors
from mudit.models.families import build
from mudit.parametrization.apply import attach_multipliers
from mudit.parametrization.table import table_for
from mudit.provenance import manifest as manifests

_WIDEST = 1 << 17  # channels; beyond it a number is a mistake


def load_imported(folder: Path, which: Variant = "ema") -> nn.Module:
    """The module with its forward multipliers attached, in evaluation mode, without gradients. Raises CheckpointError."""
    description = read_description(folder)
    section = section_of_folder(folder, description)
    path = folder / FILES[which]
    if not path.exists():
        there = ", ".join(kind for kind, name in FILES.items() if (folder / name).exists())
        raise CheckpointError(f"{folder}: holds no {which} weights, only {there}")
    model = build(section, description["width"])
    tensors = read_tensors(inside(folder, path))
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    if {name: tensor.shape for name, tensor in tensors.items()} != wanted:
        raise CheckpointError(f"{path}: tensors do not fit {MODEL_FILE}; import the checkpoint again")
    model.load_state_dict(tensors, strict=False)
    attach_multipliers(model, table_for(section, description["width"], description["scheme"]))
    return model.requires_grad_(False).eval()


def read_description(folder: Path) -> dict[str, Any]:
    """`model.json`. Raises CheckpointError unless it is that of an imported folder."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {MODEL_FILE}; name a folder that `mudit import` wrote")
    description = read_json(inside(folder, path))
    if (description.get("format"), description.get("version")) != (FORMAT, VERSION):
        raise CheckpointError(f"{path}: not a {FORMAT} folder of version {VERSION}; import the checkpoint again")
    width, scheme = description.get("width"), description.get("scheme")
    if type(width) is not int or not 0 < width <= _WIDEST or scheme not in get_args(SchemeName):
        raise CheckpointError(f"{path}: describes no model (width {width!r}, scheme {scheme!r}); import the checkpoint again")
    return description


def section_of_folder(folder: Path, description: dict[str, Any]) -> TransformerSection:
    """The architecture that `model.json` describes."""
    try:
        section: AnyModel = SECTION.validate_python(description["model"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / MODEL_FILE}: describes no model; import the checkpoint again") from error
    assert isinstance(section, TransformerSection)
    return section


def check_whole(folder: Path) -> str:
    """The content's digest, after every file was held against the manifest. Raises CheckpointError."""
    try:
        manifest = manifests.read(folder)
    except manifests.ManifestError as error:
        raise CheckpointError(f"{folder}: {error}; import the checkpoint again") from error
    if manifest is None:
        raise CheckpointError(f"{folder}: no {manifests.FILE}; name a folder that `mudit import` wrote")
    if manifests.outputs(folder) != manifest["outputs"]:
        raise CheckpointError(f"{folder}: files differ from {manifests.FILE}; import the checkpoint again")
    return str(manifest["content"])
