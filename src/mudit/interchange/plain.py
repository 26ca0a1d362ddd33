"""Weights that leave the project, and the simplest folder for them: one safetensors file and what builds the model again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from mudit.config.models import ModelSection
from mudit.data.tensors import save_tensors
from mudit.interchange.foreign import DESCRIPTION_FILE, PLAIN_FILE

Format = Literal["diffusers", "safetensors"]


@dataclass(frozen=True)
class Weights:
    """`state`: by our names, float32, multipliers folded in. `which`: the average or the last step's."""

    model: ModelSection
    width: int
    which: Literal["ema", "raw"]
    state: dict[str, Tensor]


def write_plain(weights: Weights, out: Path) -> list[str]:
    """Fills `out`, with the published names, which are ours. REPA's projector serves training and stays here. Nothing to note."""
    state = {name: tensor for name, tensor in weights.state.items() if not name.startswith("projector.")}
    save_tensors(state, out / PLAIN_FILE)
    write_description(weights, "safetensors", out)
    return []


def write_description(weights: Weights, form: Format, out: Path) -> None:
    """`model.json`: what `mudit import` needs to build the same model from the folder."""
    content = {
        "format": form,
        "family": weights.model.family,
        "width": weights.width,
        "weights": weights.which,
        "model": weights.model.model_dump(mode="json"),
    }
    (out / DESCRIPTION_FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
