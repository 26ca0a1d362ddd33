"""Model FLOPs: what the architecture asks for, not what an implementation spends (no recomputation).

One multiply-add counts as two operations; the backward pass costs twice the forward. Products are counted by torch's own counter
during the forward pass of one image on the meta device, which computes nothing and takes no memory. Pointwise work is left out, as
is usual.

Legend: B batch (1), C channels, h w latent height and width, L caption tokens, E token feature width, P pooled width.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mudit.config.models import ModelSection
from mudit.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mudit.models.condition import Condition

log = logging.getLogger(__name__)

CAPTION_TOKENS = 128  # length of a caption where the section of an external model does not say it
_COUNTED: dict[tuple[str, int, bool], int] = {}  # (section, width, training) -> multiply-adds


def forward_macs(model: ModelSection, width: int, *, training: bool = False) -> int:
    """Multiply-adds of one image's forward pass: matrix products, convolutions and the two attention products.

    Captions have the longest length that the model's section names. `training` adds what only training runs: REPA's projector.
    """
    key = (model.model_dump_json(), width, training)
    if key not in _COUNTED:
        _COUNTED[key] = _forward_macs(model, width, training)
    return _COUNTED[key]


def train_flops(model: ModelSection, width: int, images: int) -> int:
    """Operations of training on `images` images: forward and backward."""
    return 6 * forward_macs(model, width, training=True) * images


def inference_flops(model: ModelSection, width: int, images: int) -> int:
    """Operations of `images` forward passes."""
    return 2 * forward_macs(model, width) * images


def _forward_macs(model: ModelSection, width: int, training: bool) -> int:
    import torch

    try:
        return _count(model, width, training, torch.device("meta"))
    except (ConfigError, NotImplementedError, RuntimeError) as error:
        if model.family != "external":
            raise
        macs = _count(model, width, training, torch.device("cpu"))
        log.info("FLOPs at width %d are counted in memory: on the meta device the model raised %s", width, error)
        return macs


def _count(model: ModelSection, width: int, training: bool, device: torch.device) -> int:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from mudit.models.families import build

    with torch.device(device), torch.no_grad():
        module = build(model, width)
        x = torch.zeros(1, model.channels, model.image_size, model.image_size)
        t = torch.zeros(1, dtype=torch.long)
        # The counter does not know the CPU's fused attention, so attention runs as the two products that it is.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            _forward(module, x, t, _condition(model), training)
    operations = counter.get_total_flops()
    assert operations % 2 == 0, "a multiply-add is two operations"
    return operations // 2


def _forward(module: nn.Module, x: torch.Tensor, t: torch.Tensor, condition: Condition, training: bool) -> None:
    if training and getattr(module, "alignment", None) is not None:
        module(x, t, condition, return_features=True)
    else:
        module(x, t, condition)


def _condition(model: ModelSection) -> Condition:
    """One label, or one caption of full length."""
    import torch

    from mudit.models.condition import TextCondition

    if model.conditioning == "label":
        return torch.zeros(1, dtype=torch.long)
    sizes: dict[str, int | None] = model.model_dump(include={"text_dim", "pooled_dim", "max_tokens"})
    length = sizes.get("max_tokens") or CAPTION_TOKENS
    return TextCondition(
        tokens=torch.zeros(1, length, sizes["text_dim"] or 1),
        mask=torch.ones(1, length, dtype=torch.bool),
        pooled=torch.zeros(1, sizes.get("pooled_dim") or 1),
        dropped=torch.zeros(1, dtype=torch.bool),
    )
