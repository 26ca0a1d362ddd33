"""Tiny models of PixArt-alpha, MMDiT and U-ViT, with inputs and losses: for the tests of models, packing and parametrization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.models.condition import TextCondition
from mudit.models.mmdit import Alignment, MMDiT
from mudit.models.pixart import PixArt
from mudit.models.uvit import UViT
from mudit.parametrization.apply import group_rows, parametrize
from mudit.parametrization.table import ParameterTable, derive_table
from mudit.train.packed import pack, trial_views, unpack_into

BATCH, TOKENS, TEXT, POOLED, CHANNELS, FEATURES = 8, 6, 16, 12, 1, 8
_SIZES: dict[str, Any] = {"depth": 2, "head_dim": 8, "patch_size": 2, "mlp_ratio": 4, "image_size": 8, "channels": CHANNELS}

# PixArt-alpha's first caption layer starts at N(0, 0.02^2) for features of 4096 dimensions: this size gives it as much to pass on.
# The others' layers start by fan-in.
_CAPTION_SCALE = {"pixart": (4096 / TEXT) ** 0.5}

FAMILIES: dict[str, Callable[[int], nn.Module]] = {
    "pixart": lambda width: PixArt(width=width, text_dim=TEXT, max_tokens=TOKENS, **_SIZES),
    "mmdit": lambda width: MMDiT(
        width=width, text_dim=TEXT, pooled_dim=POOLED, qk_norm=True, alignment=Alignment(1, 16, FEATURES), **_SIZES
    ),
    "uvit": lambda width: UViT(width=width, num_classes=10, final_conv=True, **_SIZES),
    "uvit-text": lambda width: UViT(width=width, text_dim=TEXT, max_tokens=TOKENS, final_conv=False, **_SIZES),
}


def family(name: str) -> str:
    """The recipe of a variant."""
    return name.partition("-")[0]


def table(name: str, width: int, scheme: str, base_width: int = 32) -> ParameterTable:
    """The table of a tiny model."""
    return derive_table(
        FAMILIES[name], family=family(name), scheme=scheme, width=width, base_width=base_width, delta_width=base_width + 8
    )


def captions(name: str, generator: torch.Generator, batch: int = BATCH) -> TextCondition:
    """Random captions of 1 to 6 tokens, a quarter of them dropped."""
    return TextCondition(
        tokens=_CAPTION_SCALE.get(name, 1.0) * torch.randn(batch, TOKENS, TEXT, generator=generator),
        mask=torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (batch, 1), generator=generator),
        pooled=torch.randn(batch, POOLED, generator=generator),
        dropped=torch.arange(batch) % 4 == 3,
    )


def inputs(name: str, generator: torch.Generator, batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor | TextCondition]:
    """x (B, C, 8, 8), t (B), and what the family is conditioned on."""
    x = torch.randn(batch, CHANNELS, 8, 8, generator=generator)
    t = torch.randint(0, 1000, (batch,), generator=generator)
    if name == "uvit":
        return x, t, torch.randint(0, 11, (batch,), generator=generator)
    return x, t, captions(name, generator, batch)


def moved(condition: Tensor | TextCondition, change: Callable[[Tensor], Tensor]) -> Tensor | TextCondition:
    """A condition with every tensor changed."""
    return TextCondition(*map(change, condition)) if isinstance(condition, TextCondition) else change(condition)


def loss(model: nn.Module, x: Tensor, t: Tensor, condition: Tensor | TextCondition, target: Tensor) -> Tensor:
    """Error of the first C channels, a pull on the others, and MMDiT's alignment: one per trial, the shape before the batch."""
    has_features = hasattr(model, "projector")
    output = model(x, t, condition, return_features=True) if has_features else model(x, t, condition)
    features = None
    if has_features:
        output, features = output
    value = (output[..., :CHANNELS, :, :] - target).square().flatten(-4).mean(-1)
    if output.shape[-3] > CHANNELS:
        value = value + 0.1 * (output[..., CHANNELS:, :, :] - 0.5).square().flatten(-4).mean(-1)
    if features is not None:
        cosine = F.normalize(features, dim=-1)[..., 0]
        value = value - 0.5 * cosine.flatten(-2).mean(-1)
    return value


def optimizer(model: nn.Module, table: ParameterTable, lr: float, views: dict[str, Tensor] | None = None) -> torch.optim.AdamW:
    """Fused AdamW over the model's parameters, or over one trial's views of packed ones."""
    named = views if views is not None else dict(model.named_parameters())
    rows = {row.name: row for row in table.rows}
    return torch.optim.AdamW(group_rows(((key, value, rows[key]) for key, value in named.items()), lr, 0.1), fused=True)


def assert_packed_equals_solo(name: str, scheme: str, steps: int = 6) -> None:
    """Three trials, each with its own seed and learning rate, packed and alone: losses and weights, bit for bit."""
    rows, rates = table(name, 64, scheme), (2.0**-9, 2.0**-7, 2.0**-6)
    models = [parametrize(FAMILIES[name](64), rows, seed) for seed in range(3)]
    packed = pack(models)
    views = trial_views(packed, 3)
    optimizers = [optimizer(packed, rows, rate, view) for rate, view in zip(rates, views, strict=True)]
    alone = [optimizer(model, rows, rate) for model, rate in zip(models, rates, strict=True)]
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x, t, condition = inputs(name, generator)
        target = torch.randn(x.shape, generator=generator)
        many = moved(condition, lambda tensor: tensor.expand(3, *tensor.shape))
        packed.zero_grad()
        together = loss(packed, x.expand(3, *x.shape), t.expand(3, BATCH), many, target)
        together.sum().backward()
        for key, parameter in packed.named_parameters():
            assert parameter.grad is not None, f"{key} has no gradient"
            for view, gradient in zip(views, parameter.grad.unbind(0), strict=True):
                view[key].grad = gradient
        for index, model in enumerate(models):
            optimizers[index].step()
            model.zero_grad()
            value = loss(model, x, t, condition, target)
            value.backward()
            alone[index].step()
            assert value.item() == together[index].item(), (step, index)
    for index, model in enumerate(models):
        twin = FAMILIES[name](64)
        unpack_into(packed, index, twin)
        for key, parameter in model.named_parameters():
            assert torch.equal(parameter, twin.get_parameter(key)), (index, key)
