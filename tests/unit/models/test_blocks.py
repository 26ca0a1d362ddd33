"""What blocks do without a backward pass: other kernels, the same numbers."""

from __future__ import annotations

import pytest
import torch

from families import CHANNELS, FAMILIES, captions
from mudit.models.blocks import attend, gelu_tanh


def test_gelu_without_a_backward_pass_has_the_same_bits_and_leaves_its_input():
    x = torch.randn(3, 5, 37, generator=torch.Generator().manual_seed(0))
    before, expected = x.clone(), gelu_tanh(x)
    with torch.no_grad():
        assert torch.equal(gelu_tanh(x), expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("tokens", [16, 17, 64, 65])
@torch.no_grad()
def test_attention_without_a_backward_pass_is_the_same_to_rounding_and_takes_each_image_alone(tokens):
    """Packed trials lie in front of the batch: nothing may depend on who else is there."""
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(6, 2, length, 8, generator=generator) for length in (tokens, 9, 9))
    mask = torch.arange(9) < torch.randint(1, 10, (6, 1, 1, 1), generator=generator)
    found = attend(q, k, v, mask)
    with torch.enable_grad():
        torch.testing.assert_close(found, attend(q, k, v, mask), rtol=1e-5, atol=1e-6)
    assert torch.equal(found[2:4], attend(q[2:4], k[2:4], v[2:4], mask[2:4]))


@torch.no_grad()
def test_captions_that_are_prepared_once_give_the_same_bits():
    torch.manual_seed(0)
    model = FAMILIES["pixart"](32)
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    condition = captions("pixart", torch.Generator().manual_seed(1), batch=4)
    x, prepared = torch.randn(4, CHANNELS, 8, 8), model.prepare(condition)
    for step in (3, 900):
        t = torch.full((4,), step)
        assert torch.equal(model(x, t, prepared), model(x, t, condition))
