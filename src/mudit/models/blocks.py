"""Blocks shared by the families.

Every block works for any number of leading dimensions, which is what lets `mudit.train.packed` stack trials in front of the batch.

Legend: B batch, N tokens, D width, H heads, C channels, h w latent height and width, p patch side; `...` leading dimensions
(batch, or trials and batch).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHORT_SEQUENCE = 64


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: x (..., N, D) scaled and shifted per image; shift and scale (..., D)."""
    return torch.addcmul(shift.unsqueeze(-2), x, 1 + scale.unsqueeze(-2))


def timestep_features(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal features of the timestep (cosines, then sines), float32 (..., dim). `t`: (...), in steps."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_embedding(width: int, side: int) -> Tensor:
    """Fixed 2-D sine-cosine embedding of a square grid, float32 (side * side, width); half of the channels per axis.

    A width that is not a multiple of 4 leaves the last channels zero, so that every multiple of head_dim can be built.
    """
    quarter = width // 4
    omega = 1.0 / 10_000.0 ** (torch.arange(quarter, dtype=torch.float64) / max(quarter, 1))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = [
        wave(axis.flatten()[:, None] * omega) for axis in (column.double(), row.double()) for wave in (torch.sin, torch.cos)
    ]
    embedding = torch.zeros(side * side, width, dtype=torch.float64)
    embedding[:, : 4 * quarter] = torch.cat(parts, dim=1)
    return embedding.float()


class PatchEmbed(nn.Module):
    """Non-overlapping patches -> tokens. The weight has a convolution's shape (D, C, p, p); the product is a plain matmul."""

    def __init__(self, patch_size: int, channels: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = PatchProjection(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C, h, w) -> (..., N, D)."""
        return self.proj(_patches_last(x, self.patch_size))


class PatchProjection(nn.Conv2d):
    """A convolution's parameters applied to flattened patches (..., N, C * p * p)."""

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.weight.flatten(1), self.bias)


def _patches_last(x: Tensor, p: int) -> Tensor:
    """(..., C, h, w) -> (..., N, C * p * p), patches in row-major order."""
    *lead, c, h, w = x.shape
    x = x.reshape(*lead, c, h // p, p, w // p, p)
    n = len(lead)
    order = (*range(n), n + 1, n + 3, n, n + 2, n + 4)
    return x.permute(order).reshape(*lead, (h // p) * (w // p), c * p * p)


def unpatchify(x: Tensor, patch_size: int, channels: int) -> Tensor:
    """(..., N, p * p * C) -> (..., C, h, w); the readout's channels run fastest, as published."""
    *lead, tokens, _ = x.shape
    side, p, n = math.isqrt(tokens), patch_size, len(lead)
    x = x.reshape(*lead, side, side, p, p, channels)
    order = (*range(n), n + 4, n, n + 2, n + 1, n + 3)
    return x.permute(order).reshape(*lead, channels, side * p, side * p)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with logits scaled by head_dim^-1/2: q, k, v (batch, H, N, D/H) -> (batch, H, N, D/H).

    On the CPU a few tokens go through two plain products: at 16 tokens the fused kernel, made for long sequences, took twice as
    long forward and backward (benchmarks/step.py).
    """
    if q.device.type == "cpu" and q.shape[-2] <= _SHORT_SEQUENCE:
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return logits.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention with logits scaled by head_dim^-1/2: head_dim is fixed, so muP asks for no other scale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., N, D) -> (..., N, D)."""
        *lead, tokens, width = x.shape
        qkv = self.qkv(x).view(-1, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (lead, H, N, D/H)
        mixed = attend(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(*lead, tokens, width))


class _GeluTanh(torch.autograd.Function):
    """tanh-GELU as x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): the same function with one vectorised exponential."""

    linear = 2.0 * math.sqrt(2.0 / math.pi)
    cubic = 0.044715 * linear

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = (x * x).mul_(_GeluTanh.cubic).add_(_GeluTanh.linear).mul_(x).sigmoid_()
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        x, gate = ctx.saved_tensors
        slope = (x * x).mul_(3.0 * _GeluTanh.cubic).add_(_GeluTanh.linear).mul_(x)  # x times d(2u)/dx
        slope.mul_(gate).addcmul_(slope, gate, value=-1.0).add_(gate)
        return slope.mul_(gradient)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with the tanh approximation. On the CPU torch's own kernel spends 2.4 times as long on the tanh (benchmarks/step.py)."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        return _GeluTanh.apply(x)
    return F.gelu(x, approximate="tanh")


class Mlp(nn.Module):
    """Two linear layers with tanh-GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu_tanh(self.fc1(x)))


class TimestepEmbedder(nn.Module):
    """Timestep -> width, through 256 sinusoidal features and a two-layer MLP."""

    features = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """t (...) -> (..., D)."""
        return self.mlp(timestep_features(t, self.features).to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    """Class label -> width; the last row is the null class of classifier-free guidance."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, y: Tensor) -> Tensor:
        """y (...) int64 -> (..., D)."""
        return self.embedding_table(y)
