"""The packed forms of single layers: one by one they are the solo layers bit for bit, at once (the GPU's way) to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mudit.errors import ParametrizationError
from mudit.models.blocks import ImageConv, align
from mudit.train.packed import PackedImageConv, PackedLinear, PackedNorm, pack

K, B, N, D = 3, 4, 5, 16


def _randomised(modules):
    torch.manual_seed(0)
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.normal_()
    return modules


def _packed(modules):
    """The packed form of single layers, wrapped because the model itself is no leaf."""
    return pack([nn.Sequential(module) for module in _randomised(modules)])[0]


@pytest.mark.parametrize(
    ("make", "shape", "kind"),
    [
        (lambda: nn.LayerNorm(D), (B, N, D), PackedNorm),
        (lambda: nn.LayerNorm(D, bias=False), (B, N, D), PackedNorm),
        (lambda: nn.RMSNorm(D, eps=1e-6), (B, N, 2, D), PackedNorm),
        (lambda: ImageConv(2, 3, 3, padding=1), (B, 2, 8, 8), PackedImageConv),
    ],
)
def test_both_ways_of_a_packed_layer(make, shape, kind):
    modules = [make() for _ in range(K)]
    packed = _packed(modules)
    assert isinstance(packed, kind)
    x = torch.randn(K, *shape)
    together, at_once = packed(x), packed.at_once(x)
    for index, module in enumerate(modules):
        assert torch.equal(together[index], module(x[index]))
        torch.testing.assert_close(at_once[index], module(x[index]), rtol=1e-5, atol=1e-5)


def test_a_linear_layer_without_bias():
    modules = [nn.Linear(D, 8, bias=False) for _ in range(K)]
    packed = _packed(modules)
    assert isinstance(packed, PackedLinear) and packed.bias is None
    x = torch.randn(K, B, N, D)
    y = packed(x)
    assert all(torch.equal(y[index], module(x[index])) for index, module in enumerate(modules))


class _Shifted(nn.Module):
    bare_parameters = ("shift",)

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(D))
        self.linear = nn.Linear(D, D)

    def forward(self, x):
        return self.linear(x + align(self.shift, 1, x, 1))


def test_a_bare_parameter_that_its_class_names():
    models = [nn.Sequential(_Shifted()), nn.Sequential(_Shifted())]
    packed = pack(models)
    x = torch.randn(2, B, N, D)
    y = packed(x)
    assert packed[0].shift.shape == (2, D)
    assert all(torch.equal(y[index], model(x[index])) for index, model in enumerate(models))


def test_a_bare_parameter_that_its_class_does_not_name_is_refused():
    class Undeclared(_Shifted):
        bare_parameters = ()

    with pytest.raises(ParametrizationError, match="0: Undeclared has no packed form; run this model's trials one after another"):
        pack([nn.Sequential(Undeclared()) for _ in range(2)])
    with pytest.raises(ParametrizationError, match="the model: Undeclared has no packed form"):
        pack([Undeclared() for _ in range(2)])


def test_align_puts_the_batch_between_trials_and_the_parameter():
    table, x = torch.randn(6, D), torch.randn(B, 6, D)
    assert align(table, 2, x, 2).shape == (1, 6, D)
    assert align(torch.randn(K, 6, D), 2, torch.randn(K, B, 6, D), 2).shape == (K, 1, 6, D)
    assert align(table, 2, torch.randn(6, D), 2).shape == (6, D)
