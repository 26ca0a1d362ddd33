"""U-ViT (Bao et al. 2023): every input is a token, and long skips join shallow to deep blocks. Architecture only.

Parameter names are those of the published checkpoints. The time token is the bare sinusoid at full width, without weights; labels
or captions are tokens beside it; positions are learned. The output is the predicted noise, C channels.

Legend: N all tokens (condition and patches), L caption tokens, E width of the text features, D width, C channels, h w latent height
and width; `...` leading dimensions (batch, or trials and batch).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.models.blocks import Attention, ImageConv, Mlp, PatchEmbed, timestep_features, unpatchify
from mudit.models.condition import TextCondition


class UViTBlock(nn.Module):
    """Pre-norm attention and MLP; blocks of the second half first merge the skip."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, skip: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, qkv_bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio * width, activation=F.gelu)
        self.skip_linear = nn.Linear(2 * width, width) if skip else None

    def forward(self, x: Tensor, mask: Tensor | None, skip: Tensor | None = None) -> Tensor:
        """x (..., N, D), mask (..., N) bool or None, skip (..., N, D) if the block merges one -> (..., N, D)."""
        if self.skip_linear is not None:
            assert skip is not None
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class UViT(nn.Module):
    """Predicts noise from an image, a time and either a label (`num_classes`) or a caption (`text_dim`, `max_tokens`)."""

    readout = "decoder_pred"
    bare_parameters = ("pos_embed",)

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
        final_conv: bool,
        num_classes: int | None = None,
        text_dim: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        assert (num_classes is None) != (text_dim is None), "one condition: labels or captions"
        assert depth % 2 == 0, f"depth {depth} does not split into two halves around the middle block"
        self.channels, self.patch_size, self.image_size, self.width = channels, patch_size, image_size, width
        heads = width // head_dim
        self.patch_embed = PatchEmbed(patch_size, channels, width)
        if num_classes is not None:
            # The last row is the null class of guidance.
            self.label_emb = nn.Embedding(num_classes + 1, width)
            extras = 2
        else:
            assert text_dim is not None and max_tokens is not None
            self.context_embed = nn.Linear(text_dim, width)
            extras = 1 + max_tokens
        self.extras = extras
        # The leading 1 is the published shape; it is also the place of the batch.
        self.pos_embed = nn.Parameter(torch.zeros(1, extras + (image_size // patch_size) ** 2, width))
        self.in_blocks = nn.ModuleList(UViTBlock(width, heads, mlp_ratio, skip=False) for _ in range(depth // 2))
        self.mid_block = UViTBlock(width, heads, mlp_ratio, skip=False)
        self.out_blocks = nn.ModuleList(UViTBlock(width, heads, mlp_ratio, skip=True) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, patch_size * patch_size * channels)
        self.final_layer = ImageConv(channels, channels, 3, padding=1) if final_conv else nn.Identity()

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | TextCondition) -> Tensor:
        """x (..., C, h, w) float, t (...) in steps, labels (...) int64 or captions of max_tokens tokens -> noise (..., C, h, w)."""
        patches = self.patch_embed(x)
        time = timestep_features(t, self.width).to(patches.dtype).unsqueeze(-2)
        mask = None
        if isinstance(condition, TextCondition):
            condition = condition.zeroed()
            caption = self.context_embed(condition.tokens)
            assert caption.shape[-2] == self.extras - 1, f"captions must be padded to {self.extras - 1} tokens"
            tokens = torch.cat([time, caption, patches], dim=-2)
            # Published captions are padded by their encoder and seen whole; a full mask gives the same.
            ones = condition.mask.new_ones(*condition.mask.shape[:-1], 1 + patches.shape[-2])
            mask = torch.cat([ones[..., :1], condition.mask, ones[..., 1:]], dim=-1)
        else:
            tokens = torch.cat([self.label_emb(condition).unsqueeze(-2), time, patches], dim=-2)
        tokens = tokens + self.pos_embed
        skips: list[Tensor] = []
        for block in self.in_blocks:
            tokens = block(tokens, mask)
            skips.append(tokens)
        tokens = self.mid_block(tokens, mask)
        for block in self.out_blocks:
            tokens = block(tokens, mask, skips.pop())
        predicted = self.decoder_pred(self.norm(tokens))[..., self.extras :, :]
        return self.final_layer(unpatchify(predicted, self.patch_size, self.channels))
