"""PixArt-alpha (Chen et al. 2023): text-to-image transformer with adaLN-single and cross-attention to captions. Architecture only.

Parameter names are those of the published checkpoints. adaLN-single: one shared layer makes the six modulation vectors of the
timestep, and each block adds its own table to them (section 2.3 of that paper).

In the published code the null caption of guidance is a random constant that no optimizer ever sees, and a dropped caption keeps the
mask of the text that it replaces. Here it is a trained parameter, seen whole, unless the switch `frozen-null-caption` is on.

Legend: B batch, N tokens, L caption tokens, E width of the text features, D width, C channels, h w latent height and width;
`...` leading dimensions (batch, or trials and batch).
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit import random
from mudit.models.blocks import (
    Attention,
    CrossAttention,
    Mlp,
    PatchEmbed,
    TimestepEmbedder,
    align,
    modulate,
    position_embedding,
    unpatchify,
)
from mudit.models.condition import TextCondition

_NORM_EPS = 1e-6


class CaptionEmbedder(nn.Module):
    """Text features -> width, through a two-layer MLP; dropped captions become the null caption.

    frozen_null: it is a buffer, N(0, 1 / E), the same for every width and seed, and dropped captions keep their masks.
    """

    bare_parameters = ("y_embedding",)

    def __init__(self, text_dim: int, max_tokens: int, width: int, frozen_null: bool) -> None:
        super().__init__()
        self.max_tokens, self._frozen_null = max_tokens, frozen_null
        self.y_embedding: Tensor
        if frozen_null:
            values = random.normal(0, "null-caption", 0, torch.arange(max_tokens), (text_dim,))
            self.register_buffer("y_embedding", values / math.sqrt(text_dim))
        else:
            self.y_embedding = nn.Parameter(torch.zeros(max_tokens, text_dim))
        self.y_proj = Mlp(text_dim, width, out=width)

    def forward(self, condition: TextCondition) -> tuple[Tensor, Tensor]:
        """Captions of L <= max_tokens tokens -> tokens (..., L, D) and mask (..., L)."""
        tokens, length = condition.tokens, condition.tokens.shape[-2]
        assert length <= self.max_tokens, f"a caption of {length} tokens does not fit the model's {self.max_tokens}"
        null = align(self.y_embedding[..., :length, :], 2, tokens, 2)
        chosen = torch.where(condition.dropped[..., None, None], null, tokens)
        mask = condition.mask if self._frozen_null else condition.mask | condition.dropped[..., None]
        return self.y_proj(chosen), mask


class PixArtBlock(nn.Module):
    """Self-attention and MLP, both modulated, with plain cross-attention between."""

    bare_parameters = ("scale_shift_table",)

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, width))
        self.attn = Attention(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = Mlp(width, mlp_ratio * width)

    def forward(self, x: Tensor, modulation: Tensor, caption: Tensor, mask: Tensor, kv: Tensor | None = None) -> Tensor:
        """x (..., N, D), modulation (..., 6, D), caption (..., L, D), mask (..., L), see CrossAttention for kv -> (..., N, D)."""
        own = modulation + align(self.scale_shift_table, 2, modulation, 2)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = own.unbind(-2)
        width = x.shape[-1]
        attended = self.attn(modulate(F.layer_norm(x, (width,), eps=_NORM_EPS), shift_a, scale_a))
        x = torch.addcmul(x, gate_a.unsqueeze(-2), attended)
        x = x + self.cross_attn(x, caption, mask, kv)
        mapped = self.mlp(modulate(F.layer_norm(x, (width,), eps=_NORM_EPS), shift_m, scale_m))
        return torch.addcmul(x, gate_m.unsqueeze(-2), mapped)


class PixArtFinalLayer(nn.Module):
    """Modulation by the bare timestep embedding plus a table, and the readout to patches."""

    bare_parameters = ("scale_shift_table",)

    def __init__(self, width: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.linear = nn.Linear(width, patch_size * patch_size * out_channels)

    def forward(self, x: Tensor, t_embedding: Tensor) -> Tensor:
        """x (..., N, D), t_embedding (..., D) -> (..., N, p * p * 2C)."""
        both = t_embedding.unsqueeze(-2)
        shift, scale = (both + align(self.scale_shift_table, 2, both, 2)).unbind(-2)
        return self.linear(modulate(F.layer_norm(x, (x.shape[-1],), eps=_NORM_EPS), shift, scale))


class PreparedCaptions(NamedTuple):
    """Captions with everything that the network makes of them alone."""

    embedded: Tensor  # (..., L, D)
    mask: Tensor  # (..., L)
    kv: list[Tensor]  # (..., L, 2D) of each block


class PixArt(nn.Module):
    """Predicts noise and the variance's interpolation (learned range), 2C output channels, from an image and a caption."""

    readout = "final_layer.linear"

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        head_dim: int,
        patch_size: int,
        mlp_ratio: int,
        image_size: int,
        channels: int,
        text_dim: int,
        max_tokens: int,
        frozen_null_caption: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.patch_size, self.image_size = channels, patch_size, image_size
        self.x_embedder = PatchEmbed(patch_size, channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(text_dim, max_tokens, width, frozen_null_caption)
        self.blocks = nn.ModuleList(PixArtBlock(width, width // head_dim, mlp_ratio) for _ in range(depth))
        self.final_layer = PixArtFinalLayer(width, patch_size, 2 * channels)
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", position_embedding(width, image_size // patch_size), persistent=False)

    def prepare(self, condition: TextCondition) -> PreparedCaptions:
        """What does not change from step to step of a sampler."""
        caption, mask = self.y_embedder(condition)
        blocks = cast("list[PixArtBlock]", list(self.blocks))
        return PreparedCaptions(caption, mask, [block.cross_attn.kv_linear(caption) for block in blocks])

    def forward(self, x: Tensor, t: Tensor, condition: TextCondition | PreparedCaptions) -> Tensor:
        """x (..., C, h, w) float, t (...) in steps, captions -> (..., 2C, h, w)."""
        tokens = self.x_embedder(x) + self.pos_embed
        t_embedding = self.t_embedder(t)
        modulation = self.t_block(t_embedding).unflatten(-1, (6, -1))
        if isinstance(condition, PreparedCaptions):
            caption, mask, kv = condition
            for block, block_kv in zip(self.blocks, kv, strict=True):
                tokens = block(tokens, modulation, caption, mask, block_kv)
        else:
            caption, mask = self.y_embedder(condition)
            for block in self.blocks:
                tokens = block(tokens, modulation, caption, mask)
        return unpatchify(self.final_layer(tokens, t_embedding), self.patch_size, 2 * self.channels)
