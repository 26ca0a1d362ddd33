"""The training loss with REPA, and the base hyperparameters of a run."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from families import FAMILIES, captions
from mudit.diffusion.flow import RectifiedFlow
from mudit.train.batches import Batch
from mudit.train.knobs import Knobs
from mudit.train.loss import alignment, aligns, training_loss
from mudit.train.packed import pack

FLOW = RectifiedFlow(0.0, 1.0)


def _batch(features: int | None = 8, size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        x0=torch.randn(size, 1, 8, 8, generator=generator),
        t=torch.rand(size, generator=generator),
        noise=torch.randn(size, 1, 8, 8, generator=generator),
        condition=captions("mmdit", generator, size),
        features=None if features is None else torch.randn(size, 16, features, generator=generator),
    )


def _mmdit(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = FAMILIES["mmdit"](16)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    return model


def test_alignment_is_minus_the_cosine() -> None:
    target = torch.randn(3, 5, 8)
    torch.testing.assert_close(alignment(2 * target, target), -torch.ones(3))
    torch.testing.assert_close(alignment(-target, target), torch.ones(3))
    torch.testing.assert_close(
        alignment(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])), torch.tensor([-math.sqrt(0.5)])
    )


def test_the_weight_scales_the_alignment_term_only() -> None:
    model, batch = _mmdit(), _batch()
    losses = [training_loss(model, FLOW, batch, [weight]) for weight in (0.0, 1.0, 2.0)]
    without, one, two = (loss.total for loss in losses)
    assert one != without and all(torch.equal(loss.prediction, without) for loss in losses)
    torch.testing.assert_close(two - without, 2 * (one - without))
    torch.testing.assert_close(without, training_loss(model, FLOW, batch, None).total)


def test_each_packed_trial_has_its_own_weight() -> None:
    models, batch = [_mmdit(seed) for seed in range(3)], _batch()
    many = batch.map(lambda tensor: tensor.expand(3, *tensor.shape))
    together = training_loss(pack(models), FLOW, many, [0.0, 0.5, 2.0]).total
    alone = [training_loss(model, FLOW, batch, [weight]).total for model, weight in zip(models, (0.0, 0.5, 2.0), strict=True)]
    assert together.tolist() == [value.item() for value in alone]


def test_only_a_model_with_a_projector_aligns() -> None:
    assert aligns(_mmdit()) and not aligns(FAMILIES["pixart"](16)) and not aligns(FAMILIES["uvit"](16))


@pytest.mark.parametrize(("steps", "shares"), [(0, [1, 1, 1]), (1, [1, 1, 1]), (4, [0.25, 0.5, 0.75, 1, 1])])
def test_warm_up_rises_linearly_to_the_full_rate(steps: int, shares: list[float]) -> None:
    knobs = Knobs(-3, None, steps, 0.0)
    assert [knobs.warmup(step) for step in range(len(shares))] == shares
    assert knobs.base_lr == 0.125


def test_a_batch_moves_with_all_its_parts() -> None:
    batch = _batch()
    doubled = batch.map(torch.add, batch.map(lambda tensor: tensor))
    assert torch.equal(doubled.features, 2 * batch.features) and torch.equal(doubled.condition.tokens, 2 * batch.condition.tokens)
    assert _batch(None).map(lambda tensor: tensor[:2]).features is None
