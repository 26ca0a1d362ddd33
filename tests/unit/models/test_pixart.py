"""PixArt-alpha: shapes, captions of any length, the null caption, packing. What it computes: test_layouts.py."""

from __future__ import annotations

import pytest
import torch

from families import CHANNELS, FAMILIES, TEXT, TOKENS, assert_packed_equals_solo, inputs
from mudit.models.condition import TextCondition


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = FAMILIES["pixart"](32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def _generator():
    return torch.Generator().manual_seed(0)


@torch.no_grad()
def test_leading_dimensions_are_batches(model):
    x, t, condition = inputs("pixart", _generator())
    flat = model(x, t, condition)
    assert flat.shape == (8, 2 * CHANNELS, 8, 8)
    folded = model(
        x.unflatten(0, (2, 4)), t.unflatten(0, (2, 4)), TextCondition(*(part.unflatten(0, (2, 4)) for part in condition))
    )
    torch.testing.assert_close(folded.flatten(0, 1), flat, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(model):
    """A caption alone at its own length, and the same one padded with rubbish among longer ones."""
    x, t, condition = inputs("pixart", _generator())
    together = model(x, t, condition)
    length = int(condition.mask[0].sum())
    assert not condition.dropped[0] and length < TOKENS
    alone = TextCondition(condition.tokens[:1, :length], condition.mask[:1, :length], condition.pooled[:1], condition.dropped[:1])
    torch.testing.assert_close(model(x[:1], t[:1], alone), together[:1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_dropped_caption_is_the_null_caption_whatever_it_said(model):
    x, t, condition = inputs("pixart", _generator())
    dropped = condition._replace(dropped=torch.ones(8).bool())
    other = dropped._replace(tokens=torch.randn(8, TOKENS, TEXT), mask=condition.mask.flip(0))
    assert torch.equal(model(x, t, dropped), model(x, t, other))
    spoken = TextCondition(
        model.y_embedder.y_embedding.expand(8, -1, -1), torch.ones(8, TOKENS).bool(), condition.pooled, torch.zeros(8).bool()
    )
    torch.testing.assert_close(model(x, t, spoken), model(x, t, dropped), rtol=1e-5, atol=1e-5)


def test_the_null_caption_is_trained(model):
    x, t, condition = inputs("pixart", _generator())
    model(x, t, condition).square().mean().backward()
    assert model.y_embedder.y_embedding.grad.abs().sum() > 0


def test_longer_captions_than_the_model_knows_are_refused(model):
    x, t, condition = inputs("pixart", _generator())
    long = condition._replace(tokens=torch.randn(8, TOKENS + 1, TEXT), mask=torch.ones(8, TOKENS + 1).bool())
    with pytest.raises(AssertionError, match="a caption of 7 tokens does not fit the model's 6"):
        model(x, t, long)


def test_the_graph_is_whole(model):
    """Variable lengths cost no synchronisation: the whole model compiles as one graph."""
    x, t, condition = inputs("pixart", _generator())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, condition), model(x, t, condition), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", ["mup", "sp"])
def test_packed_equals_solo_bit_for_bit(scheme):
    assert_packed_equals_solo("pixart", scheme)
