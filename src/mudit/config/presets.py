"""Published models by their published names: a section of `config.yaml` and a width each. `mudit params --preset DiT-S/2`.

Sizes are those of the papers and their public code. DiT's read ImageNet-256; U-ViT's with `-pixels` ImageNet-64 itself (without a
null class in the public code, with one here), L/2 and H/2 latents of ImageNet-256, L/4 and H/4 of ImageNet-512, S/2 those of
captioned MS-COCO. PixArt-α's and MMDiT's two sizes are the muP paper's. It states no depth of MMDiT: 19 blocks of 512 channels are
its 0.18B, REPA's projector apart, and at ten times the width its 18B.

The base width is the muP paper's, four heads, where that says nothing, too; MMDiT's is its proxy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from mudit.config.models import AnyModel, ModelSection

_BASE_HEADS = 4
_SECTION: TypeAdapter[ModelSection] = TypeAdapter(AnyModel)


@dataclass(frozen=True)
class Preset:
    """A model section, and the width of the published model."""

    model: ModelSection
    width: int


def _preset(heads: int, head_dim: int, *, base_heads: int = _BASE_HEADS, **section: Any) -> Preset:
    widths = {"base_width": base_heads * head_dim, "delta_width": (base_heads + 1) * head_dim, "output_mult": 1.0}
    return Preset(_SECTION.validate_python({**section, **widths, "head_dim": head_dim, "mlp_ratio": 4}), heads * head_dim)


# Size -> heads, channels per head, depth.
_DIT = {"S": (6, 64, 12), "B": (12, 64, 12), "L": (16, 64, 24), "XL": (16, 72, 28)}
_UVIT = {"S": (8, 64, 12), "S-deep": (8, 64, 16), "M": (12, 64, 16), "L": (16, 64, 20), "H": (16, 72, 28)}


def _dit(size: str, patch_size: int) -> Preset:
    heads, head_dim, depth = _DIT[size]
    section: dict[str, Any] = {
        "family": "dit",
        "depth": depth,
        "patch_size": patch_size,
        "image_size": 32,
        "channels": 4,
        "num_classes": 1000,
    }
    return _preset(heads, head_dim, **section)


def _pixart(heads: int) -> Preset:
    section: dict[str, Any] = {"family": "pixart", "depth": 28, "patch_size": 2, "image_size": 32, "channels": 4}
    return _preset(heads, 72, **section, text_dim=4096, max_tokens=120)


def _uvit(size: str, patch_size: int, image_size: int, channels: int = 4, *, text: bool = False) -> Preset:
    heads, head_dim, depth = _UVIT[size]
    condition: dict[str, Any] = {
        "num_classes": None if text else 1000,
        "text_dim": 768 if text else None,
        "max_tokens": 77 if text else None,
    }
    section: dict[str, Any] = {
        "family": "uvit",
        "depth": depth,
        "patch_size": patch_size,
        "image_size": image_size,
        "channels": channels,
    }
    return _preset(heads, head_dim, **section, **condition, final_conv=size != "H")


def _mmdit(heads: int) -> Preset:
    return _preset(
        heads,
        64,
        base_heads=8,
        family="mmdit",
        depth=19,
        patch_size=2,
        image_size=32,
        channels=16,
        text_dim=4096,
        pooled_dim=1280,
        max_tokens=120,
        qk_norm=True,
        position_table=None,
        alignment={"after_blocks": 8, "hidden": 2048, "features": 768},
    )


PRESETS: dict[str, Preset] = {
    **{f"DiT-{size}/{patch_size}": _dit(size, patch_size) for size in _DIT for patch_size in (2, 4, 8)},
    "PixArt-0.04B": _pixart(4),
    "PixArt-0.61B": _pixart(16),
    "U-ViT-S/2": _uvit("S", 2, 32, text=True),
    "U-ViT-S-deep/2": _uvit("S-deep", 2, 32, text=True),
    "U-ViT-M/4-pixels": _uvit("M", 4, 64, 3),
    "U-ViT-L/4-pixels": _uvit("L", 4, 64, 3),
    "U-ViT-L/2": _uvit("L", 2, 32),
    "U-ViT-L/4": _uvit("L", 4, 64),
    "U-ViT-H/2": _uvit("H", 2, 32),
    "U-ViT-H/4": _uvit("H", 4, 64),
    "MMDiT-0.18B": _mmdit(8),
    "MMDiT-18B": _mmdit(80),
}
