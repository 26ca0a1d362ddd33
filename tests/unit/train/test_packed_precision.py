"""Packed runs in bfloat16: the products are in that type, and as close to the solo runs as rounding lets them be."""

from __future__ import annotations

import copy

import pytest
import torch

from families import FAMILIES, inputs, table
from mudit.models.condition import map_condition
from mudit.parametrization.apply import parametrize
from mudit.parametrization.table import table_for
from mudit.train.group import Member, TrialGroup
from mudit.train.knobs import Knobs
from mudit.train.packed import PackedImageConv, PackedLinear, PackedNorm, pack, trial_gradients
from support import changed

K, WIDTH = 3, 64


@pytest.fixture(params=["one by one", "at once"])
def way(request, monkeypatch):
    """The CPU's way, and the GPU's."""
    if request.param == "at once":
        for leaf in (PackedLinear, PackedNorm, PackedImageConv):
            monkeypatch.setattr(leaf, "one_by_one", leaf.at_once)
    return request.param


def _models(name):
    generator = torch.Generator().manual_seed(0)
    models = [parametrize(FAMILIES[name](WIDTH), table(name, WIDTH, "mup"), seed) for seed in range(K)]
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():  # published readouts start at zero
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return models, inputs(name, generator)


def _step(model, inputs, dtype=None):
    """Output and, per trial, name -> gradient."""
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        output = model(*inputs)
    output.float().square().mean(dim=(-1, -2, -3, -4)).sum().backward()
    return output


def _stacked(inputs):
    def expand(tensor):
        return tensor.expand(K, *tensor.shape)

    x, t, condition = inputs
    return expand(x), expand(t), map_condition(expand, condition)


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_bfloat16_is_as_near_to_float32_as_solo_bfloat16(name, way):
    """Its products round differently where they are batched, as much as bfloat16 itself does, and no more."""
    models, given = _models(name)
    exact = [_step(copy.deepcopy(model), given) for model in models]
    packed = pack(models)
    together = _step(packed, _stacked(given), torch.bfloat16)
    solo = [_step(model, given, torch.bfloat16) for model in models]
    assert together.dtype == torch.bfloat16
    for index, model in enumerate(models):
        scale = exact[index].std()
        assert (together[index] - exact[index]).abs().max() < 2 * (solo[index] - exact[index]).abs().max() + 0.005 * scale
        gradients = trial_gradients(packed, K)[index]
        for path, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert gradients[path].dtype == torch.float32
                assert (gradients[path].view_as(parameter) - parameter.grad).norm() <= 0.05 * parameter.grad.norm() + 1e-9, path


def test_a_group_in_bfloat16_is_its_solo_runs_on_the_cpu(desk, digits):
    config = changed(desk, optimizer__precision="bf16")
    members = [Member(Knobs(log2_lr, 1.0, 0, 0.0), seed) for log2_lr, seed in ((-8, 0), (-6, 0), (-7, 1))]

    def trained(config, members):
        group = TrialGroup(config, digits, table_for(config.model, 32, "mup"), members, 16)
        return torch.stack([group.step(step) for step in range(6)], dim=1)

    together = trained(config, members)
    assert torch.equal(together, torch.cat([trained(config, [member]) for member in members]))
    assert not torch.equal(together, trained(desk, members)), "the products are not in float32"
    torch.testing.assert_close(together, trained(desk, members), rtol=0.02, atol=0.01)
