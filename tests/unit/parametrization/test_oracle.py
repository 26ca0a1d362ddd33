"""`mup` 1.0.0 as the oracle: learning-rate groups, initialisation, and a training trajectory."""

from __future__ import annotations

import copy

import pytest
import torch
from mup import MuReadout, set_base_shapes
from torch import nn

from mudit.models.families import build
from mudit.parametrization.apply import initialise, parametrize
from mudit.parametrization.table import table_for
from oracle import assert_trains_as_with_mup

WIDTH, LR = 96, 2.0**-6


def _with_mup(model: nn.Module) -> nn.Module:
    """The same architecture as `mup` wants it: its own readout class."""
    old = model.final_layer.linear
    readout = MuReadout(old.in_features, old.out_features, readout_zero_init=True)
    model.final_layer.linear = readout
    return model


def _oracle(section, width):
    model = _with_mup(build(section, width))
    set_base_shapes(model, _with_mup(build(section, section.base_width)), delta=_with_mup(build(section, section.delta_width)))
    return model


@pytest.fixture
def pair(small_model):
    """Our parametrized model and mup's, with the same weights (a non-zero readout, so that every gradient flows at once)."""
    table = table_for(small_model, WIDTH, "mup")
    ours = parametrize(build(small_model, WIDTH), table, seed=0)
    with torch.no_grad():
        ours.final_layer.linear.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    oracle = _oracle(small_model, WIDTH)
    oracle.load_state_dict(ours.state_dict())
    return table, ours, oracle


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_mups_groups_and_ten_steps(pair, weight_decay):
    table, ours, oracle = pair

    def draw(generator: torch.Generator):
        x, target = torch.randn(8, 1, 8, 8, generator=generator), torch.randn(8, 2, 8, 8, generator=generator)
        return x, torch.randint(0, 1000, (8,), generator=generator), torch.randint(0, 11, (8,), generator=generator), target

    def loss(model: nn.Module, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (model(x, t, y) - target).square().mean()

    assert_trains_as_with_mup(ours, oracle, table, draw, loss, lr=LR, weight_decay=weight_decay)


def test_standard_deviations_of_fixed_scale_inits_follow_mup_init(small_model):
    """mup.init.normal_ keeps a fixed std for one infinite dimension and divides it by sqrt(m) for two."""
    from mup import init

    from mudit.parametrization.recipes import Init
    from mudit.parametrization.rules import multipliers
    from mudit.parametrization.shapes import infer_shapes

    oracle = _oracle(small_model, 256)
    shapes = infer_shapes(lambda w: build(small_model, w), width=256, base_width=32, delta_width=40)
    for shape in shapes:
        parameter = oracle.get_parameter(shape.name)
        if shape.role in ("hidden", "input") and parameter.numel() > 10_000:
            init.normal_(parameter, std=0.02)
            expected = multipliers("mup", shape, Init("fixed", 0.02), 1.0).init_std
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), shape.name


@pytest.mark.parametrize("scheme", ["mup", "sp"])
@pytest.mark.parametrize("width", [64, 256])
def test_measured_standard_deviation_of_every_tensor(small_model, scheme, width):
    table = table_for(small_model, width, scheme)
    model = build(small_model, width)
    initialise(model, table, seed=3)
    for row in table.rows:
        values = model.get_parameter(row.name)
        if row.init_std == 0:
            assert not values.any(), row.name
        else:
            # Five standard errors of a sample standard deviation.
            tolerance = 5 / (2 * values.numel()) ** 0.5
            assert values.std().item() == pytest.approx(row.init_std, rel=max(tolerance, 1e-3)), row.name


def test_deepcopy_and_state_dict_keep_the_parametrization(pair):
    """mup's own attributes do not survive a deepcopy; ours must (EMA)."""
    _, ours, _ = pair
    twin = copy.deepcopy(ours)
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([1, 10])
    assert torch.equal(ours(x, t, y), twin(x, t, y))
