"""Family name -> factory of a width. `build` is the only place that knows how a config section becomes a module."""

from __future__ import annotations

from torch import nn

from mudit.config.schema import ModelSection
from mudit.errors import ConfigError
from mudit.models.dit import DiT


def build(model: ModelSection, width: int) -> nn.Module:
    """The architecture at `width` channels, with torch's default initialisation, on the current default device.

    Raises ConfigError if `width` is not a multiple of `head_dim`.
    """
    if width <= 0 or width % model.head_dim:
        raise ConfigError(f"width {width} is not a positive multiple of model.head_dim {model.head_dim}")
    return DiT(
        width=width,
        depth=model.depth,
        head_dim=model.head_dim,
        patch_size=model.patch_size,
        mlp_ratio=model.mlp_ratio,
        image_size=model.image_size,
        channels=model.channels,
        num_classes=model.num_classes,
    )
