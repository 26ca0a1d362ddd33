"""`mudit params --presets`: the published models with their sizes, as JSON or as a page to read."""

from __future__ import annotations

import json

import torch
from rich.console import Console
from rich.table import Table

from mudit.config.presets import PRESETS, Preset
from mudit.models.families import build

_NARROWEST = 100  # columns


def parameters(preset: Preset) -> int:
    """Trainable parameters of the published model. Takes no memory for weights."""
    with torch.device("meta"):
        model = build(preset.model, preset.width)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def print_presets(as_json: bool) -> None:
    """To stdout: {name: {"width", "parameters", "model": section}} as JSON, or a table."""
    if as_json:
        shown = {
            name: {"width": preset.width, "parameters": parameters(preset), "model": preset.model.model_dump(mode="json")}
            for name, preset in PRESETS.items()
        }
        print(json.dumps(shown, indent=2))
        return
    page = Table(title="Published models: mudit params --preset NAME")
    for heading in ("name", "width", "base", "depth", "head_dim", "patch", "input", "condition", "parameters"):
        page.add_column(heading, justify="left" if heading in ("name", "condition") else "right", no_wrap=True)
    for name, preset in PRESETS.items():
        model = preset.model.model_dump()
        page.add_row(
            name,
            str(preset.width),
            str(preset.model.base_width),
            str(model["depth"]),
            str(preset.model.head_dim),
            str(model["patch_size"]),
            f"{model['channels']}x{model['image_size']}x{model['image_size']}",
            {"label": "labels", "text": "captions"}[preset.model.conditioning],
            f"{parameters(preset) / 1e6:,.1f}M",
        )
    console = Console()
    console.width = max(console.width, _NARROWEST)
    console.print(page)
