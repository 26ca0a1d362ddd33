"""Ready factories and calls for transformers of `diffusers`, whose classes are used as they are: examples of a model of your own.

Both factories take the width in channels, which grows by heads, and further arguments of the class by their own names.

Legend: B batch, C channels, h w latent height and width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mudit.errors import ConfigError
from mudit.models.condition import TextCondition


def diffusers_dit(*, width: int, attention_head_dim: int, **options: Any) -> nn.Module:
    """`DiTTransformer2DModel` at `width` channels; `options` are its other arguments.

    The class drops labels at random by itself. That is switched off: the project drops conditions as a function of the seed.
    Raises ConfigError if the heads do not fill the width.
    """
    from diffusers import DiTTransformer2DModel

    heads = _heads(width, attention_head_dim)
    model: Any = DiTTransformer2DModel(num_attention_heads=heads, attention_head_dim=attention_head_dim, **options)
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return model


def call_dit(model: nn.Module, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """x (B, C, h, w), t (B) steps, labels (B) with the number of classes for the null class -> (B, C or 2C, h, w)."""
    return model(x, timestep=t, class_labels=labels).sample


def diffusers_sd3(*, width: int, attention_head_dim: int, **options: Any) -> nn.Module:
    """`SD3Transformer2DModel` at `width` channels, captions projected to the same; `options` are its other arguments.

    Raises ConfigError if the heads do not fill the width.
    """
    from diffusers import SD3Transformer2DModel

    heads = _heads(width, attention_head_dim)
    model: Any = SD3Transformer2DModel(
        num_attention_heads=heads, attention_head_dim=attention_head_dim, caption_projection_dim=width, **options
    )
    return model


def call_sd3(model: nn.Module, x: Tensor, t: Tensor, captions: TextCondition) -> Tensor:
    """x (B, C, h, w), t (B) flow time times 1000, captions -> velocity (B, C, h, w).

    The class attends to every caption token, so what stands behind a caption, and a dropped one as a whole, is zero.
    """
    captions = captions.zeroed()
    tokens = captions.tokens * captions.mask[..., None]
    return model(x, encoder_hidden_states=tokens, pooled_projections=captions.pooled, timestep=t).sample


def _heads(width: int, head_dim: int) -> int:
    if head_dim <= 0 or width <= 0 or width % head_dim:
        raise ConfigError(f"width {width} is not a positive multiple of attention_head_dim {head_dim}")
    return width // head_dim
