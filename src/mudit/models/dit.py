"""DiT (Peebles & Xie 2023): class-conditional diffusion transformer with adaLN modulation. Architecture only.

Parameter names follow the published checkpoints, so that weights can be exchanged. Initialisation, learning rates and the
readout's multiplier are applied from outside, by the parametrization.

Legend: B batch, N tokens, D width, C channels, h w latent height and width; `...` leading dimensions (batch, or trials and batch).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.models.blocks import (
    Attention,
    LabelEmbedder,
    Mlp,
    PatchEmbed,
    TimestepEmbedder,
    modulate,
    position_embedding,
    unpatchify,
)

_NORM_EPS = 1e-6


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (..., N, D), c (..., D) -> (..., N, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=-1)
        width = x.shape[-1]
        attended = self.attn(modulate(F.layer_norm(x, (width,), eps=_NORM_EPS), shift_a, scale_a))
        x = torch.addcmul(x, gate_a.unsqueeze(-2), attended)
        mapped = self.mlp(modulate(F.layer_norm(x, (width,), eps=_NORM_EPS), shift_m, scale_m))
        return torch.addcmul(x, gate_m.unsqueeze(-2), mapped)


class FinalLayer(nn.Module):
    """adaLN and the readout to patches."""

    def __init__(self, width: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (..., N, D), c (..., D) -> (..., N, p * p * 2C)."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(F.layer_norm(x, (x.shape[-1],), eps=_NORM_EPS), shift, scale))


class DiT(nn.Module):
    """Diffusion transformer that predicts noise and the variance's interpolation (learned range), 2C output channels."""

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
        num_classes: int,
    ) -> None:
        super().__init__()
        self.channels, self.patch_size, self.image_size, self.num_classes = channels, patch_size, image_size, num_classes
        self.x_embedder = PatchEmbed(patch_size, channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.blocks = nn.ModuleList(DiTBlock(width, width // head_dim, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch_size, 2 * channels)
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", position_embedding(width, image_size // patch_size), persistent=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (..., C, h, w) float, t (...) in steps, y (...) int64 labels (num_classes = null) -> (..., 2C, h, w)."""
        tokens = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t) + self.y_embedder(y)
        for block in self.blocks:
            tokens = block(tokens, c)
        return unpatchify(self.final_layer(tokens, c), self.patch_size, 2 * self.channels)
