"""Closed forms against built models and torch's counter, over many shapes of the four families, and against published totals."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.config.models import AlignmentSection, DiTSection, MMDiTSection, ModelSection, PixArtSection, UViTSection
from mudit.models.families import build
from mudit.models.flops import forward_macs
from mudit.plan.counts import architecture
from own_models import DIT

_PAPER: dict[str, Any] = {
    "depth": 28,
    "head_dim": 72,
    "patch_size": 2,
    "mlp_ratio": 4,
    "image_size": 32,
    "channels": 4,
    "base_width": 288,
    "delta_width": 360,
    "output_mult": 1.0,
}
DIT_XL = DiTSection(family="dit", num_classes=1000, **_PAPER)
PIXART = PixArtSection(family="pixart", text_dim=4096, max_tokens=120, **_PAPER)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[ModelSection, int]:
    """Small models of every family, and a width."""
    head_dim = draw(st.sampled_from([4, 8, 12]))
    patch = draw(st.sampled_from([1, 2, 4]))
    common: dict[str, Any] = {
        "head_dim": head_dim,
        "base_width": head_dim,
        "delta_width": 2 * head_dim,
        "output_mult": draw(st.sampled_from([1.0, 0.5])),
        "patch_size": patch,
        "image_size": patch * draw(st.integers(1, 4)),
        "channels": draw(st.integers(1, 4)),
        "mlp_ratio": draw(st.integers(1, 4)),
        "depth": draw(st.integers(1, 3)),
    }
    text = {"text_dim": draw(st.integers(1, 20)), "max_tokens": draw(st.integers(1, 9))}
    width = head_dim * draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["dit", "pixart", "uvit", "uvit-text", "mmdit"]))
    if kind == "dit":
        return DiTSection(family="dit", num_classes=draw(st.integers(1, 12)), **common), width
    if kind == "pixart":
        return PixArtSection(family="pixart", **text, **common), width
    if kind == "mmdit":
        align = AlignmentSection(after_blocks=1, hidden=draw(st.integers(1, 9)), features=draw(st.integers(1, 9)))
        extra = {"qk_norm": draw(st.booleans()), "position_table": None, "alignment": draw(st.sampled_from([None, align]))}
        return MMDiTSection(family="mmdit", pooled_dim=draw(st.integers(1, 9)), **extra, **text, **common), width
    common["depth"] *= 2
    condition = text | {"num_classes": None} if kind == "uvit-text" else {"num_classes": 7, "text_dim": None, "max_tokens": None}
    return UViTSection(family="uvit", final_conv=draw(st.booleans()), **condition, **common), width


@settings(max_examples=60, deadline=None)
@given(shapes())
def test_closed_forms_equal_built_models(shape):
    model, width = shape
    counted = architecture(model, width)
    with torch.device("meta"):
        module = build(model, width)
    assert counted.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert counted.macs == forward_macs(model, width)
    assert counted.training_macs == forward_macs(model, width, training=True)


@settings(max_examples=25, deadline=None)
@given(shapes())
def test_blocks_are_the_layers_that_training_shards(shape):
    from mudit.train.parallel import blocks

    model, width = shape
    with torch.device("meta"):
        found = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks(build(model, width))]
    assert [part.parameters for part in architecture(model, width).blocks] == found


def test_dit_xl_2_has_the_118_6_gmac_and_674_83m_parameters_of_its_public_code():
    counted = architecture(DIT_XL, 1152)
    assert round(counted.macs / 1e9, 1) == 118.6
    assert round(counted.parameters / 1e6, 2) == 674.83


@pytest.mark.parametrize(("width", "millions"), [(144, 10.76), (288, 42.55), (576, 169.2), (864, 380.0)])
def test_the_papers_proxies_have_its_parameters(width, millions):
    assert architecture(DIT_XL, width).parameters / 1e6 == pytest.approx(millions, abs=0.05)


def test_pixart_has_the_published_parameters_beside_the_null_caption_that_it_does_not_train():
    null = 120 * 4096
    assert round((architecture(PIXART, 288).parameters - null) / 1e6, 2) == 39.25
    assert round((architecture(PIXART, 1152).parameters - null) / 1e6, 2) == 610.86


def test_a_model_of_your_own_is_counted_with_torch():
    counted = architecture(DIT, 32)
    assert counted.macs == forward_macs(DIT, 32)
    assert counted.parameters == sum(parameter.numel() for parameter in build(DIT, 32).parameters())


def test_importing_it_loads_no_torch():
    program = "import sys, mudit.plan.counts; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
