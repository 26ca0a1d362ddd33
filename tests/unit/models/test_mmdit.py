"""MMDiT: shapes, sizes, the mask, the projector, packing. What it computes: test_layouts.py."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from families import CHANNELS, FAMILIES, FEATURES, TEXT, TOKENS, assert_packed_equals_solo, inputs
from mudit.models.condition import TextCondition
from support import ROOT


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = FAMILIES["mmdit"](32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def _generator():
    return torch.Generator().manual_seed(0)


def test_the_configured_target_has_18_billion_parameters_and_its_table_needs_no_memory():
    """The model of `config.yaml` on the meta device, with its parameter table, in a process of less than 2 GB."""
    script = """
import resource, sys
from pathlib import Path
from mudit.config.load import load
from mudit.parametrization.table import table_for
experiment = load(Path(sys.argv[1])).experiments["mmdit-18b"]
table = table_for(experiment.model, experiment.train.width, "mup")
row = table["joint_blocks.18.x_block.attn.qkv.weight"]
print(table.total, row.lr_multiplier, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    command = [sys.executable, "-c", script, str(ROOT / "config.yaml")]
    total, multiplier, kilobytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert round(int(total) / 1e9, 1) == 17.7
    assert float(multiplier) == 0.1
    assert int(kilobytes) < 2_000_000


@torch.no_grad()
def test_leading_dimensions_are_batches(model):
    x, t, condition = inputs("mmdit", _generator())
    flat = model(x, t, condition)
    assert flat.shape == (8, CHANNELS, 8, 8)
    folded = model(
        x.unflatten(0, (2, 4)), t.unflatten(0, (2, 4)), TextCondition(*(part.unflatten(0, (2, 4)) for part in condition))
    )
    torch.testing.assert_close(folded.flatten(0, 1), flat, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(model):
    x, t, condition = inputs("mmdit", _generator())
    rubbish = torch.where(condition.mask[..., None], condition.tokens, torch.randn(8, TOKENS, TEXT))
    torch.testing.assert_close(model(x, t, condition._replace(tokens=rubbish)), model(x, t, condition), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_dropped_caption_is_zeros(model):
    x, t, condition = inputs("mmdit", _generator())
    dropped = condition._replace(dropped=torch.ones(8).bool())
    zeros = TextCondition(
        torch.zeros(8, TOKENS, TEXT), torch.ones(8, TOKENS).bool(), torch.zeros_like(condition.pooled), torch.zeros(8).bool()
    )
    assert torch.equal(model(x, t, dropped), model(x, t, zeros))


@torch.no_grad()
def test_features_are_projected_on_request_and_change_nothing(model):
    x, t, condition = inputs("mmdit", _generator())
    velocity, features = model(x, t, condition, return_features=True)
    assert features.shape == (8, 16, FEATURES)
    assert torch.equal(velocity, model(x, t, condition))


def test_a_model_without_projector_says_so():
    model = FAMILIES["mmdit"](16)
    model.alignment = None
    x, t, condition = inputs("mmdit", _generator())
    with pytest.raises(AssertionError, match="built without a projector"):
        model(x, t, condition, return_features=True)


@pytest.mark.parametrize("scheme", ["mup", "sp"])
def test_packed_equals_solo_bit_for_bit(scheme):
    assert_packed_equals_solo("mmdit", scheme)
