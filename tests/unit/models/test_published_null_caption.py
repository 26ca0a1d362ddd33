"""`frozen-null-caption`: the null caption is a constant outside the optimizer, behind the mask of the caption that it replaces."""

from __future__ import annotations

import pytest
import torch

from families import TEXT, TOKENS, inputs
from mudit.config.models import PixArtSection
from mudit.models.condition import TextCondition
from mudit.models.families import build
from mudit.parametrization.apply import initialise, parametrize
from mudit.parametrization.table import table_for
from mudit.train.packed import pack
from mudit.train.weights import load_model, save_weights
from support import changed

NAME = "y_embedder.y_embedding"


@pytest.fixture
def section() -> PixArtSection:
    return PixArtSection(
        family="pixart",
        depth=2,
        head_dim=8,
        patch_size=2,
        mlp_ratio=4,
        image_size=8,
        channels=1,
        text_dim=TEXT,
        max_tokens=TOKENS,
        base_width=32,
        delta_width=40,
        output_mult=1.0,
        frozen_null_caption=True,
    )


def _alive(model):
    """No output is zero, so that every gradient flows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def test_it_is_no_parameter_and_has_no_row(section):
    model = build(section, 64)
    learned = build(changed(section, frozen_null_caption=False), 64)
    assert dict(learned.named_parameters()).keys() - dict(model.named_parameters()).keys() == {NAME}
    assert model.state_dict().keys() == learned.state_dict().keys()
    for scheme in ("mup", "sp", "sp-same-init"):
        assert NAME not in {row.name for row in table_for(section, 64, scheme).rows}


def test_no_gradient_and_no_step_reaches_it(section):
    model = _alive(build(section, 32))
    before = model.y_embedder.y_embedding.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    x, t, condition = inputs("pixart", torch.Generator().manual_seed(0))
    model(x, t, condition).square().mean().backward()
    optimizer.step()
    assert model.y_embedder.y_embedding.grad is None and torch.equal(model.y_embedder.y_embedding, before)
    assert model.y_embedder.y_proj.fc1.weight.grad.any(), "what stands behind it is trained"


def test_it_is_the_same_constant_for_every_width_and_seed_with_the_published_scale(section):
    values = []
    for width, seed in ((32, 0), (64, 1)):
        model = build(section, width)
        initialise(model, table_for(section, width, "mup"), seed)
        values.append(model.y_embedder.y_embedding)
    assert torch.equal(*values) and values[0].shape == (TOKENS, TEXT)
    many = build(changed(section, text_dim=4096, max_tokens=120), 32).y_embedder.y_embedding
    assert many.std().item() == pytest.approx(1 / 64, rel=0.01) and many.mean().abs().item() < 1e-4


@torch.no_grad()
def test_a_dropped_caption_keeps_its_mask(section):
    """Its words do not count, its length does; a learned null caption is seen whole, so that its length does not count either."""
    x, t, condition = inputs("pixart", torch.Generator().manual_seed(0))
    everything = torch.ones(8, dtype=torch.bool)
    outputs = {}
    for frozen in (True, False):
        model = _alive(build(changed(section, frozen_null_caption=frozen), 32))
        for length in (2, 5):
            mask = (torch.arange(TOKENS) < length).expand(8, TOKENS)
            outputs[frozen, length] = model(x, t, TextCondition(condition.tokens, mask, condition.pooled, everything))
            other_words = TextCondition(condition.tokens + 1, mask, condition.pooled, everything)
            assert torch.equal(model(x, t, other_words), outputs[frozen, length])
    assert not torch.allclose(outputs[True, 2], outputs[True, 5], atol=1e-4)
    assert torch.equal(outputs[False, 2], outputs[False, 5])


@torch.no_grad()
def test_packed_trials_share_it(section):
    models = [_alive(parametrize(build(section, 32), table_for(section, 32, "mup"), seed)) for seed in range(2)]
    x, t, condition = inputs("pixart", torch.Generator().manual_seed(0))
    many = TextCondition(*(part.expand(2, *part.shape) for part in condition))
    together = pack(models)(x.expand(2, *x.shape), t.expand(2, 8), many)
    for model, output in zip(models, together, strict=True):
        assert torch.equal(model(x, t, condition), output)


@torch.no_grad()
def test_finished_weights_come_back_with_it(section, desk, tmp_path):
    table = table_for(section, 32, "mup")
    model = _alive(parametrize(build(section, 32), table, 0))
    save_weights(tmp_path, model, model, {"family": "pixart", "scheme": "mup", "width": 32, "parametrization": table.digest})
    found = load_model(tmp_path, changed(desk, model=section))
    batch = inputs("pixart", torch.Generator().manual_seed(0))
    assert torch.equal(found.y_embedder.y_embedding, model.y_embedder.y_embedding)
    torch.testing.assert_close(found(*batch), model(*batch))
