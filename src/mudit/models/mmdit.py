"""MMDiT (Stable Diffusion 3, Esser et al. 2024): two streams with own weights and joint attention. Architecture only.

Image and caption tokens meet in one attention per block; adaLN is driven by the timestep and the pooled caption. The output is the
velocity of a rectified flow, C channels. Parameter names are those of the published checkpoints (`joint_blocks...`).
Optionally an intermediate layer's image tokens are projected onto an image encoder's features (REPA, Yu et al. 2025).

The published family grows depth with width; muP's promise holds at fixed depth, so here width grows by heads alone.

Legend: B batch, N image tokens, L caption tokens, E width of the text features, P of the pooled one, D width, H heads, C channels,
h w latent height and width, Z features of the image encoder; `...` leading dimensions (batch, or trials and batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.models.blocks import (
    Mlp,
    PatchEmbed,
    TimestepEmbedder,
    attend,
    attention_logits,
    modulate,
    position_embedding,
    unpatchify,
)
from mudit.models.condition import TextCondition

_NORM_EPS = 1e-6


class Alignment(NamedTuple):
    """REPA's projector: where it looks, and its sizes (published: after 8 blocks, hidden 2048, 768 features of DINOv2-B)."""

    after_blocks: int
    hidden: int
    features: int


class StreamAttention(nn.Module):
    """One stream's share of the joint attention: queries, keys and values, optionally RMS-normalised per head, and the way out."""

    def __init__(self, width: int, heads: int, qk_norm: bool, context_pre_only: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.ln_q = nn.RMSNorm(width // heads, eps=_NORM_EPS) if qk_norm else nn.Identity()
        self.ln_k = nn.RMSNorm(width // heads, eps=_NORM_EPS) if qk_norm else nn.Identity()
        self.proj = None if context_pre_only else nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., N, D) -> q, k, v, each (..., N, H, D/H)."""
        return self.split(self.qkv(x))

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """qkv (..., N, 3D) -> q, k, v, each (..., N, H, D/H), with q and k normalised."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return self.ln_q(q), self.ln_k(k), v


class Stream(nn.Module):
    """One modality's weights in one block. The last block's caption stream only feeds the attention (`context_pre_only`)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, qk_norm: bool, context_pre_only: bool = False) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, (2 if context_pre_only else 6) * width))
        self.attn = StreamAttention(width, heads, qk_norm, context_pre_only)
        self.mlp = None if context_pre_only else Mlp(width, mlp_ratio * width)

    def enter(self, x: Tensor, modulation: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., N, D) -> q, k, v of the normalised, modulated tokens."""
        return self.attn(modulate(F.layer_norm(x, x.shape[-1:], eps=_NORM_EPS), modulation[0], modulation[1]))

    def leave(self, x: Tensor, mixed: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        """x and what the attention mixed for it (..., N, D) -> the stream after its MLP, (..., N, D)."""
        assert self.attn.proj is not None and self.mlp is not None
        _, _, gate_a, shift_m, scale_m, gate_m = modulation
        x = torch.addcmul(x, gate_a.unsqueeze(-2), self.attn.proj(mixed))
        mapped = self.mlp(modulate(F.layer_norm(x, x.shape[-1:], eps=_NORM_EPS), shift_m, scale_m))
        return torch.addcmul(x, gate_m.unsqueeze(-2), mapped)


class MMDiTBlock(nn.Module):
    """Both streams and their joint attention, image tokens first."""

    logit_layers = ("x_block.attn.qkv", "context_block.attn.qkv")

    def __init__(self, width: int, heads: int, mlp_ratio: int, qk_norm: bool, context_pre_only: bool) -> None:
        super().__init__()
        self.context_pre_only = context_pre_only
        self.x_block = Stream(width, heads, mlp_ratio, qk_norm)
        self.context_block = Stream(width, heads, mlp_ratio, qk_norm, context_pre_only)

    def forward(self, x: Tensor, context: Tensor, c: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., N, D), context (..., L, D), c (..., D), mask (lead, 1, 1, N + L) bool -> x and context."""
        x_modulation = self.x_block.adaLN_modulation(c).chunk(6, dim=-1)
        context_modulation = self.context_block.adaLN_modulation(c).chunk(2 if self.context_pre_only else 6, dim=-1)
        q, k, v = self.x_block.enter(x, x_modulation)
        context_q, context_k, context_v = self.context_block.enter(context, context_modulation)
        joint_q, joint_k, joint_v = (torch.cat(pair, dim=-3) for pair in ((q, context_q), (k, context_k), (v, context_v)))
        mixed = _attend(joint_q, joint_k, joint_v, mask)
        tokens = x.shape[-2]
        x = self.x_block.leave(x, mixed[..., :tokens, :], x_modulation)
        if self.context_pre_only:
            return x, context
        return x, self.context_block.leave(context, mixed[..., tokens:, :], context_modulation)

    def logits(self, outputs: Sequence[Tensor]) -> Tensor:
        """The two qkv -> joint logits (..., H, N + L, N + L)."""
        q, k, _ = self.x_block.attn.split(outputs[0])
        context_q, context_k, _ = self.context_block.attn.split(outputs[1])
        return attention_logits(torch.cat([q, context_q], dim=-3), torch.cat([k, context_k], dim=-3))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q, k, v (..., N + L, H, D/H) -> (..., N + L, D)."""
    q_, k_, v_ = (part.flatten(0, -4).transpose(1, 2) for part in (q, k, v))
    return attend(q_, k_, v_, mask).transpose(1, 2).reshape(*q.shape[:-2], -1)


class PooledEmbedder(nn.Module):
    """Pooled caption -> width, through a two-layer MLP."""

    def __init__(self, pooled_dim: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(pooled_dim, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled (..., P) -> (..., D)."""
        return self.mlp(pooled)


class MMDiTFinalLayer(nn.Module):
    """adaLN and the readout to patches."""

    def __init__(self, width: int, patch_size: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, patch_size * patch_size * channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (..., N, D), c (..., D) -> (..., N, p * p * C)."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(F.layer_norm(x, x.shape[-1:], eps=_NORM_EPS), shift, scale))


class MMDiT(nn.Module):
    """Predicts the velocity of a rectified flow, C channels, from an image, a time and a caption."""

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
        pooled_dim: int,
        qk_norm: bool,
        position_table: int | None = None,
        alignment: Alignment | None = None,
    ) -> None:
        """`position_table`: side, in patches, of the table whose centre is used (published: 192); None: the image's own side."""
        super().__init__()
        self.channels, self.patch_size, self.image_size, self.alignment = channels, patch_size, image_size, alignment
        self.x_embedder = PatchEmbed(patch_size, channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = PooledEmbedder(pooled_dim, width)
        self.context_embedder = nn.Linear(text_dim, width)
        self.joint_blocks = nn.ModuleList(
            MMDiTBlock(width, width // head_dim, mlp_ratio, qk_norm, context_pre_only=index == depth - 1) for index in range(depth)
        )
        self.final_layer = MMDiTFinalLayer(width, patch_size, channels)
        if alignment is not None:
            assert 0 < alignment.after_blocks <= depth, f"no block {alignment.after_blocks} among {depth}"
            self.projector = nn.Sequential(
                nn.Linear(width, alignment.hidden),
                nn.SiLU(),
                nn.Linear(alignment.hidden, alignment.hidden),
                nn.SiLU(),
                nn.Linear(alignment.hidden, alignment.features),
            )
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", position_embedding(width, image_size // patch_size, position_table), persistent=False)

    def forward(
        self, x: Tensor, t: Tensor, condition: TextCondition, return_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x (..., C, h, w) float, t (...) flow time times 1000, captions -> velocity (..., C, h, w).

        With `return_features` also the projected image tokens (..., N, Z), for the alignment loss; the model must have a projector.
        """
        assert not return_features or self.alignment is not None, "this model was built without a projector"
        condition = condition.zeroed()
        tokens = self.x_embedder(x) + self.pos_embed
        context = self.context_embedder(condition.tokens)
        c = self.t_embedder(t) + self.y_embedder(condition.pooled)
        visible = torch.cat([condition.mask.new_ones(*condition.mask.shape[:-1], tokens.shape[-2]), condition.mask], dim=-1)
        mask = visible.reshape(-1, 1, 1, visible.shape[-1])
        features = None
        for count, block in enumerate(self.joint_blocks, start=1):
            tokens, context = block(tokens, context, c, mask)
            if return_features and self.alignment is not None and count == self.alignment.after_blocks:
                features = self.projector(tokens)
        velocity = unpatchify(self.final_layer(tokens, c), self.patch_size, self.channels)
        return velocity if features is None else (velocity, features)
