"""`mup` 1.0.0 as the oracle of a training run: groups of AdamW, then losses and weights step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mup import MuAdamW
from torch import Tensor, nn

from mudit.models.condition import TextCondition
from mudit.parametrization.apply import parameter_groups
from mudit.parametrization.table import ParameterTable

STEPS = 10


def assert_trains_as_with_mup(
    ours: nn.Module,
    oracle: nn.Module,
    rows: ParameterTable,
    draw: Callable[[torch.Generator], tuple[Any, ...]],
    loss: Callable[..., Tensor],
    *,
    lr: float,
    weight_decay: float,
) -> None:
    """Learning rate and weight decay of every parameter, then ten AdamW steps on `loss(model, *draw(generator))`.

    Both models start with the same weights. In double precision, so that rounding does not hide behind Adam's normalisation of tiny
    gradients.
    """
    ours.double(), oracle.double()
    mine = torch.optim.AdamW(parameter_groups(ours, rows, lr=lr, weight_decay=weight_decay))
    theirs = MuAdamW(oracle.parameters(), lr=lr, weight_decay=weight_decay)
    names = {id(parameter): name for model in (ours, oracle) for name, parameter in model.named_parameters()}
    own, expected = (
        {names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (mine, theirs)
    )
    assert own.keys() == expected.keys()
    for name, values in own.items():
        assert values == pytest.approx(expected[name], rel=1e-15), name
    generator = torch.Generator().manual_seed(2)
    for step in range(STEPS):
        batch = tuple(map(_double, draw(generator)))
        losses = []
        for model, optimizer in ((ours, mine), (oracle, theirs)):
            optimizer.zero_grad()
            value = loss(model, *batch)
            value.backward()
            optimizer.step()
            losses.append(value.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-7), step
    weights = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, weights[name], rtol=1e-6, atol=1e-8, msg=name)


def _double(part: Any) -> Any:
    """Float tensors in double precision, in conditions too; labels and steps as they are."""
    if isinstance(part, TextCondition):
        return part._replace(tokens=part.tokens.double(), pooled=part.pooled.double())
    return part.double() if part.is_floating_point() else part
