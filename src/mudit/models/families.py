"""Family name -> factory of a width. `build` is the only place that knows how a config section becomes a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mudit.config.models import ExternalSection, MMDiTSection, ModelSection
from mudit.errors import ConfigError
from mudit.models.dit import DiT
from mudit.models.mmdit import Alignment, MMDiT
from mudit.models.pixart import PixArt
from mudit.models.uvit import UViT

FAMILIES: dict[str, Callable[..., nn.Module]] = {"dit": DiT, "pixart": PixArt, "uvit": UViT, "mmdit": MMDiT}

# What a section says about the parametrization, which is not the architecture's business.
_NOT_ARCHITECTURE = {"family", "base_width", "delta_width", "output_mult"}


def build(model: ModelSection, width: int) -> nn.Module:
    """The architecture at `width` channels, with torch's default initialisation, on the current default device.

    Raises ConfigError if `width` is not a multiple of `head_dim`, or an external factory fails.
    """
    if width <= 0 or width % model.head_dim:
        raise ConfigError(f"width {width} is not a positive multiple of model.head_dim {model.head_dim}")
    if isinstance(model, ExternalSection):
        from mudit.models.external import build_external

        return build_external(model, width)
    return FAMILIES[model.family](width=width, **_options(model))


def _options(model: ModelSection) -> dict[str, Any]:
    options = model.model_dump(exclude=_NOT_ARCHITECTURE)
    if isinstance(model, MMDiTSection):
        del options["max_tokens"]  # what is known of the captions; no weight depends on it
    if options.get("alignment") is not None:
        options["alignment"] = Alignment(**options["alignment"])
    return options
