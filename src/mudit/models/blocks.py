"""Blocks shared by the families.

Every block works for any number of leading dimensions, which is what lets `mudit.train.packed` stack trials in front of the batch.

Legend: B batch, N tokens, L caption tokens, D width, H heads, C channels, h w latent height and width, p patch side; `...` leading
dimensions (batch, or trials and batch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHORT_SEQUENCE = 64
_SHORT_FORWARD = 16


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: x (..., N, D) scaled and shifted per image; shift and scale (..., D)."""
    return torch.addcmul(shift.unsqueeze(-2), x, 1 + scale.unsqueeze(-2))


def align(parameter: Tensor, own_dims: int, x: Tensor, x_dims: int) -> Tensor:
    """A bare parameter with `own_dims` dimensions as a view that broadcasts against x, which has `x_dims` after its leading ones.

    Packing (`mudit.train.packed`) puts trials in front of both; the batch, which the parameter lacks, lies between.
    """
    trials = parameter.ndim - own_dims
    gap = x.ndim - x_dims - trials
    return parameter.reshape(*parameter.shape[:trials], *[1] * gap, *parameter.shape[trials:])


def timestep_features(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal features of the timestep (cosines, then sines), float32 (..., dim). `t`: (...), in steps."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def position_embedding(width: int, side: int, table_side: int | None = None) -> Tensor:
    """Fixed 2-D sine-cosine embedding of a square grid, float32 (side * side, width); half of the channels per axis.

    A width that is not a multiple of 4 leaves the last channels zero, so that every multiple of head_dim can be built.
    With `table_side` (SD3) the grid is the centre of a larger one, whose positions are squeezed into the range [0, side).
    """
    quarter = width // 4
    omega = 1.0 / 10_000.0 ** (torch.arange(quarter, dtype=torch.float64) / max(quarter, 1))
    axis = torch.arange(side, dtype=torch.float64)
    if table_side is not None:
        axis = (axis + (table_side - side) // 2) * (side / table_side)
    row, column = torch.meshgrid(axis, axis, indexing="ij")
    parts = [wave(place.flatten()[:, None] * omega) for place in (column, row) for wave in (torch.sin, torch.cos)]
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


class ImageConv(nn.Conv2d):
    """A convolution of images with any number of leading dimensions: (..., C, h, w) -> (..., C', h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, *x.shape[-3:])).view(*x.shape[:-3], -1, *x.shape[-2:])


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


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention with logits scaled by head_dim^-1/2: q (batch, H, N, D/H), k and v (batch, H, M, D/H) -> like q.

    `mask`: bool, broadcastable to (batch, H, N, M), True where a key may be seen; every query must see at least one.

    On the CPU a few tokens go through two plain products: at 16 tokens the fused kernel, made for long sequences, took 1.5
    times as long forward and backward (benchmarks/step.py). Forward alone it takes as long there, and a third at 64 tokens.
    """
    if q.device.type == "cpu" and q.shape[-2] <= (_SHORT_SEQUENCE if torch.is_grad_enabled() else _SHORT_FORWARD):
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        return logits.softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_logits(q: Tensor, k: Tensor) -> Tensor:
    """q (..., N, H, D/H), k (..., M, H, D/H) -> q.k / sqrt(head_dim), (..., H, N, M); only for measurements."""
    return torch.einsum("...nhd,...mhd->...hnm", q, k) * q.shape[-1] ** -0.5


@runtime_checkable
class HasLogits(Protocol):
    """A module with attention: the submodules whose outputs make its logits, and how. The coordinate check measures them."""

    logit_layers: tuple[str, ...]

    def logits(self, outputs: Sequence[Tensor]) -> Tensor:
        """Outputs of `logit_layers`, in their order -> logits (..., H, N, M)."""


class Attention(nn.Module):
    """Multi-head self-attention with logits scaled by head_dim^-1/2: head_dim is fixed, so muP asks for no other scale."""

    logit_layers = ("qkv",)

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (..., N, D) -> (..., N, D); mask (..., N) bool, True for the tokens that may be seen."""
        *lead, tokens, width = x.shape
        qkv = self.qkv(x).view(-1, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (lead, H, N, D/H)
        mixed = attend(q, k, v, None if mask is None else mask.reshape(-1, 1, 1, tokens))
        return self.proj(mixed.transpose(1, 2).reshape(*lead, tokens, width))

    def logits(self, outputs: Sequence[Tensor]) -> Tensor:
        """(qkv,) -> (..., H, N, N)."""
        q, k, _ = outputs[0].unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return attention_logits(q, k)


class CrossAttention(nn.Module):
    """Multi-head attention from image tokens to caption tokens of any number; padding is masked, so lengths stay on the device."""

    logit_layers = ("q_linear", "kv_linear")

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, caption: Tensor, mask: Tensor, kv: Tensor | None = None) -> Tensor:
        """x (..., N, D), caption (..., L, D), mask (..., L) bool, True for real tokens -> (..., N, D).

        kv (..., L, 2D): what `kv_linear` makes of the caption, if that is known already.
        """
        *lead, tokens, width = x.shape
        length, head_dim = caption.shape[-2], width // self.heads
        q = self.q_linear(x).view(-1, tokens, self.heads, head_dim).transpose(1, 2)
        kv = (self.kv_linear(caption) if kv is None else kv).view(-1, length, 2, self.heads, head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # each (lead, H, L, D/H)
        mixed = attend(q, k, v, mask.reshape(-1, 1, 1, length))
        return self.proj(mixed.transpose(1, 2).reshape(*lead, tokens, width))

    def logits(self, outputs: Sequence[Tensor]) -> Tensor:
        """(q, kv) -> (..., H, N, L), padding included."""
        q, kv = outputs
        k, _ = kv.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return attention_logits(q.unflatten(-1, (self.heads, -1)), k)


class _GeluTanh(torch.autograd.Function):
    """tanh-GELU as x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): the same function with one vectorised exponential."""

    linear = 2.0 * math.sqrt(2.0 / math.pi)
    cubic = 0.044715 * linear

    @staticmethod
    def gate(x: Tensor) -> Tensor:
        """sigmoid(2u)."""
        return (x * x).mul_(_GeluTanh.cubic).add_(_GeluTanh.linear).mul_(x).sigmoid_()

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = _GeluTanh.gate(x)
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, gate = ctx.saved_tensors
        slope = (x * x).mul_(3.0 * _GeluTanh.cubic).add_(_GeluTanh.linear).mul_(x)  # x times d(2u)/dx
        slope.mul_(gate).addcmul_(slope, gate, value=-1.0).add_(gate)
        return slope.mul_(gradient)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with the tanh approximation. On the CPU torch's own kernel takes 2.2 times as long (benchmarks/step.py)."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        # Without a backward pass the gate's memory serves the result: fresh memory costs more than the arithmetic.
        return _GeluTanh.apply(x) if torch.is_grad_enabled() else _GeluTanh.gate(x).mul_(x)
    return F.gelu(x, approximate="tanh")


class Mlp(nn.Module):
    """Two linear layers with a nonlinearity between, tanh-GELU unless told; `out` is the input's width unless told."""

    def __init__(self, width: int, hidden: int, out: int | None = None, activation: Callable[[Tensor], Tensor] = gelu_tanh) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class TimestepEmbedder(nn.Module):
    """Timestep -> width, through 256 sinusoidal features and a two-layer MLP."""

    features = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """t (...) -> (..., D)."""
        return self.mlp(timestep_features(t, self.features).to(next(self.mlp.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """Class label -> width; the last row is the null class of classifier-free guidance."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, y: Tensor) -> Tensor:
        """y (...) int64 -> (..., D)."""
        return self.embedding_table(y)
