"""Modules that know nothing of this project, as users bring them, and sections that name them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.config.models import ExternalSection

HEAD = 8


class Block(nn.Module):
    """Pre-norm attention and MLP; attention through torch's fused function, or written out."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(F.layer_norm(x, (width,))).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(F.layer_norm(x, (width,)))))


class Tiny(nn.Module):
    """A transformer for 8x8 images. `heads` None: width grows by heads; else they are fixed and head_dim grows, which is wrong."""

    def __init__(self, width: int, heads: int | None = None, fused: bool = True, bare_readout: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.time, self.label = nn.Linear(1, width), nn.Embedding(11, width)
        self.blocks = nn.ModuleList(Block(width, heads or width // HEAD, fused) for _ in range(2))
        self.readout: nn.Linear | nn.Parameter = nn.Parameter(torch.zeros(4, width)) if bare_readout else nn.Linear(width, 4)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.positions
        tokens = tokens + (self.time(t[:, None] / 1000) + self.label(y))[:, None]
        for block in self.blocks:
            tokens = block(tokens)
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        patches = self.readout(tokens) if isinstance(self.readout, nn.Linear) else F.linear(tokens, self.readout)
        return F.pixel_shuffle(patches.transpose(1, 2).reshape(len(x), 4, 4, 4), 2)


class Odd(nn.Module):
    """One parameter of every kind that a measurement meets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)  # torch's uniform default
        self.normal = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.normal.weight, std=0.02)
        self.shifted = nn.Parameter(1 + 0.1 * torch.randn(width))
        self.gain, self.silent = nn.Parameter(torch.full((width,), 1e-4)), nn.Parameter(torch.zeros(width))
        self.scalar = nn.Parameter(torch.randn(()))
        self.waves = nn.Parameter(torch.arange(16.0 * width).view(16, width).sin())
        self.frozen = nn.Parameter(torch.randn(width), requires_grad=False)
        self.register_buffer("noise", torch.randn(width))
        self.readout = nn.Conv2d(width, 2, 3)
        self.upscale = nn.ConvTranspose2d(width, 2, 2, 2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x


class Tied(nn.Module):
    """Two names for one matrix: both hidden, or an embedding and a readout."""

    def __init__(self, width: int, across_roles: bool) -> None:
        super().__init__()
        self.first, self.table = nn.Linear(width, width), nn.Embedding(10, width)
        self.second, self.readout, self.other_readout = nn.Linear(width, width), nn.Linear(width, 10), nn.Linear(width, 10)
        if across_roles:
            self.readout.weight = self.table.weight
        else:
            self.second.weight = self.first.weight
            self.other_readout.weight = self.readout.weight


class Stepped(nn.Module):
    """A size that grows in steps of 64 channels: the same at base and delta width, another at the target's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 8 * (1 + width // 128), bias=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x


def no_module(width: int) -> str:
    """Not a module."""
    return "x" * width


def deeper(width: int) -> nn.Module:
    """Names change with width."""
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(width // 16)))


def with_dropout(width: int) -> nn.Module:
    """Draws random numbers in training."""
    return nn.Sequential(nn.Linear(width, width), nn.Dropout(0.1))


def with_statistics(width: int) -> nn.Module:
    """Keeps averages of past batches."""
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width))


def with_statistics_of_images(width: int) -> nn.Module:
    """Keeps averages of past images."""
    return nn.Sequential(nn.Conv2d(width, width, 1), nn.InstanceNorm2d(width, track_running_stats=True))


def with_weight_norm(width: int) -> nn.Module:
    """A weight that is computed from two parameters."""
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(width, width)))


def orthogonal(width: int) -> nn.Module:
    """A matrix drawn as a whole."""
    layer = nn.Linear(width, width)
    nn.init.orthogonal_(layer.weight, gain=2.0)
    return layer


def in_half(width: int) -> nn.Module:
    """Weights that are not float32."""
    return nn.Linear(width, width).bfloat16()


class HalfZero(nn.Module):
    """A parameter of which a part is drawn and a part is constant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.cat([torch.zeros(width), torch.randn(width)]))


class Diagonal(nn.Module):
    """A matrix over the width that starts as known numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)
        nn.init.eye_(self.mix.weight)


class Dropping(Tiny):
    """Drops labels by itself, outside of any dropout module."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, torch.where(torch.rand(len(y)) < 0.1, 10, y) if self.training else y)


class Frozen(Tiny):
    """Has a frozen random projection, and a layer that the loss does not reach."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.waves = nn.Parameter(torch.randn(1, width), requires_grad=False)
        self.idle = nn.Linear(width, width)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, y) + (t[:, None] * self.waves / 1000).sin().mean(1)[:, None, None, None]


class ReadsValues(Tiny):
    """Reads tensors' values while it is built and while it runs, which the meta device cannot."""

    def __init__(self, width: int) -> None:
        # Not linspace: torch remembers its constructors at the first use of a device context, and transformers, where that is the
        # first, has replaced linspace just then; from then on it makes real values on the meta device, too.
        self.rates = [rate.item() for rate in torch.ones(3)]
        super().__init__(width)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, y) * (1 if t.sum().item() >= 0 else 0)


_SECTION: dict[str, Any] = {
    "family": "external",
    "image_size": 8,
    "channels": 1,
    "head_dim": HEAD,
    "base_width": 64,
    "delta_width": 72,
    "output_mult": 1.0,
    "width_argument": "width",
    "width_unit": 1,
    "options": {},
    "call": None,
    "num_classes": 10,
    "text_dim": None,
    "pooled_dim": None,
    "max_tokens": None,
    "learned_variance": False,
    "zero_readout": True,
    "seed": 0,
}


def section(factory: str, **changes: Any) -> ExternalSection:
    """A model of this file, or of another module."""
    target = factory if ":" in factory else f"own_models:{factory}"
    return ExternalSection(**{**_SECTION, "factory": target, **changes})


DIT = section(
    "mudit.models.adapters:diffusers_dit",
    call="mudit.models.adapters:call_dit",
    learned_variance=True,
    options={
        "attention_head_dim": HEAD,
        "in_channels": 1,
        "out_channels": 2,
        "num_layers": 2,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 10,
    },
)
SD3 = section(
    "mudit.models.adapters:diffusers_sd3",
    call="mudit.models.adapters:call_sd3",
    num_classes=None,
    text_dim=16,
    pooled_dim=12,
    max_tokens=6,
    options={
        "attention_head_dim": HEAD,
        "in_channels": 1,
        "out_channels": 1,
        "num_layers": 2,
        "sample_size": 8,
        "patch_size": 2,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 12,
        "pos_embed_max_size": 4,
        "qk_norm": "rms_norm",
    },
)
