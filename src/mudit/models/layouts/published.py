"""The original code bases' checkpoints: our names are theirs, so these layouts only say what is rebuilt or ours alone.

DiT (facebookresearch) and PixArt-alpha keep the fixed position table among the weights, SD3 a larger one whose centre is used.
"""

from __future__ import annotations

from collections.abc import Iterable

from mudit.models.layouts.layout import Layout, identity


def dit(names: Iterable[str]) -> Layout:
    """facebookresearch's DiT. `names`: our parameters, as for all layouts of this module."""
    return identity("facebookresearch DiT", names, rebuilt=("pos_embed",))


def pixart(names: Iterable[str]) -> Layout:
    """PixArt-alpha at 256 pixels. Its null caption is among the weights, though that code never trains it."""
    return identity("PixArt-alpha", names, rebuilt=("pos_embed",))


def uvit(names: Iterable[str]) -> Layout:
    """U-ViT; positions are learned. Its label table has a null row only if the model was built with 1001 classes."""
    return identity("U-ViT", names)


def sd3(names: Iterable[str], prefix: str = "model.diffusion_model.") -> Layout:
    """Stable Diffusion 3, transformer part of a single-file checkpoint. REPA's projector is ours alone."""
    return identity("Stable Diffusion 3", names, prefix=prefix, rebuilt=(f"{prefix}pos_embed",), own=("projector.",))
