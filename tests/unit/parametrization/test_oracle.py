"""`mup` 1.0.0 as the oracle: learning-rate groups, initialisation, and a training trajectory."""

from __future__ import annotations

import copy

import pytest
import torch
from mup import MuAdamW, MuReadout, set_base_shapes
from torch import nn

from mudit.models.registry import build
from mudit.parametrization.apply import initialise, parameter_groups, parametrize
from mudit.parametrization.table import table_for

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
def test_learning_rate_and_weight_decay_of_every_parameter(pair, weight_decay):
    table, ours, oracle = pair
    groups = parameter_groups(ours, table, lr=LR, weight_decay=weight_decay)
    mine = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    names = {id(parameter): name for name, parameter in oracle.named_parameters()}
    theirs = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in MuAdamW(oracle.parameters(), lr=LR, weight_decay=weight_decay).param_groups
        for parameter in group["params"]
    }
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name] == pytest.approx(theirs[name], rel=1e-15), name


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_ten_adamw_steps_give_the_same_losses_and_weights(pair, weight_decay):
    table, ours, oracle = pair
    # In double precision, so that rounding does not hide behind Adam's normalisation of tiny gradients.
    ours.double(), oracle.double()
    mine = torch.optim.AdamW(parameter_groups(ours, table, lr=LR, weight_decay=weight_decay))
    theirs = MuAdamW(oracle.parameters(), lr=LR, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(2)
    for step in range(10):
        x = torch.randn(8, 1, 8, 8, generator=generator).double()
        target = torch.randn(8, 2, 8, 8, generator=generator).double()
        t, y = torch.randint(0, 1000, (8,), generator=generator), torch.randint(0, 11, (8,), generator=generator)
        losses = []
        for model, optimizer in ((ours, mine), (oracle, theirs)):
            optimizer.zero_grad()
            loss = (model(x, t, y) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-7), step
    expected = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=1e-9, msg=name)


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
