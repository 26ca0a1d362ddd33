"""Finished weights of a target run: `model.json` says how to rebuild the module, the safetensors files fill it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor, nn

from mudit.config.schema import Experiment
from mudit.data.tensors import save_tensors
from mudit.errors import CheckpointError
from mudit.models.registry import build
from mudit.parametrization.apply import attach_multipliers
from mudit.parametrization.table import table_for

_FILES = {"ema": "ema.safetensors", "raw": "weights.safetensors"}


def save_weights(folder: Path, model: nn.Module, ema: nn.Module, description: dict[str, Any]) -> None:
    """`description` must name "scheme", "width" and "parametrization" (the table's digest)."""
    for which, module in (("raw", model), ("ema", ema)):
        save_tensors(_tensors(module), folder / _FILES[which])
    (folder / "model.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_model(folder: Path, config: Experiment, which: Literal["ema", "raw"] = "ema") -> nn.Module:
    """The trained module, in evaluation mode. Raises CheckpointError if it belongs to another architecture or parametrization."""
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    table = table_for(config.model, description["width"], description["scheme"])
    if table.digest != description["parametrization"]:
        raise CheckpointError(f"{folder}: trained under another parameter table; run `mudit train` again")
    model = build(config.model, description["width"])
    attach_multipliers(model, table)
    found, wanted = load_file(folder / _FILES[which]), _tensors(model)
    wrong = sorted(found.keys() ^ wanted.keys()) or [name for name in wanted if found[name].shape != wanted[name].shape]
    if wrong:
        raise CheckpointError(
            f"{folder / _FILES[which]}: tensors do not fit the model: {', '.join(wrong[:3])}; run `mudit train` again"
        )
    model.load_state_dict(found, strict=False)  # tied parameters are filled under their first name
    return model.requires_grad_(False).eval()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's state by name: its parameters, tied ones once, under their first name, and its persistent buffers."""
    tied = dict(module.named_parameters(remove_duplicate=False)).keys() - dict(module.named_parameters()).keys()
    return {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items() if name not in tied}
