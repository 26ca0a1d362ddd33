"""Model FLOPs: what the architecture asks for, not what an implementation spends (no recomputation).

One multiply-add counts as two operations; the backward pass costs twice the forward. Pointwise work is left out, as is usual.
"""

from __future__ import annotations

from mudit.config.schema import ModelSection


def forward_macs(model: ModelSection, width: int) -> int:
    """Multiply-adds of one image's forward pass: every matrix product and the two attention products."""
    tokens = (model.image_size // model.patch_size) ** 2
    patch = model.patch_size**2 * model.channels
    per_token = patch * width + model.depth * (4 + 2 * model.mlp_ratio) * width**2 + 2 * patch * width
    attention = model.depth * 2 * tokens**2 * width
    per_image = 256 * width + width**2 + model.depth * 6 * width**2 + 2 * width**2
    return tokens * per_token + attention + per_image


def train_flops(model: ModelSection, width: int, images: int) -> int:
    """Operations of training on `images` images: forward and backward."""
    return 6 * forward_macs(model, width) * images


def inference_flops(model: ModelSection, width: int, images: int) -> int:
    """Operations of `images` forward passes."""
    return 2 * forward_macs(model, width) * images
