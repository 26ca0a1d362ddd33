"""FLOPs against closed forms, written out from the architectures, and against the counter on real tensors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from families import inputs
from mudit.config.models import AlignmentSection, DiTSection, MMDiTSection, ModelSection, PixArtSection, UViTSection
from mudit.models import flops
from mudit.models.families import build
from mudit.models.flops import forward_macs, inference_flops, train_flops
from own_models import DIT, SD3, section

WIDTHS: dict[str, Any] = {"base_width": 32, "delta_width": 40, "output_mult": 1.0, "head_dim": 8}
SIZES: dict[str, Any] = {**WIDTHS, "depth": 2, "patch_size": 2, "mlp_ratio": 4, "image_size": 8, "channels": 1}
TEXT: dict[str, Any] = {"text_dim": 16, "max_tokens": 6}

PIXART = PixArtSection(family="pixart", **SIZES, **TEXT)
UVIT = UViTSection(family="uvit", **SIZES, final_conv=True, num_classes=10, text_dim=None, max_tokens=None)
UVIT_TEXT = UViTSection(family="uvit", **SIZES, final_conv=False, num_classes=None, **TEXT)
MMDIT = MMDiTSection(
    family="mmdit",
    **SIZES,
    text_dim=16,
    pooled_dim=12,
    max_tokens=20,
    qk_norm=True,
    position_table=None,
    alignment=AlignmentSection(after_blocks=1, hidden=16, features=8),
)


def _dit(depth: int, patch_size: int, mlp_ratio: int, image_size: int, channels: int) -> DiTSection:
    return DiTSection(
        family="dit",
        **WIDTHS,
        depth=depth,
        patch_size=patch_size,
        mlp_ratio=mlp_ratio,
        image_size=image_size,
        channels=channels,
        num_classes=10,
    )


def _dit_macs(model: DiTSection, n: int) -> int:
    tokens, patch = (model.image_size // model.patch_size) ** 2, model.patch_size**2 * model.channels
    per_token = patch * n + model.depth * (4 + 2 * model.mlp_ratio) * n**2 + 2 * patch * n
    attention = model.depth * 2 * tokens**2 * n
    conditioning = 256 * n + n**2 + model.depth * 6 * n**2 + 2 * n**2
    return tokens * per_token + attention + conditioning


@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 6),
    depth=st.integers(1, 3),
    patch_size=st.sampled_from([1, 2, 4]),
    mlp_ratio=st.integers(1, 4),
    side=st.integers(1, 5),
    channels=st.integers(1, 4),
)
def test_dit_has_its_closed_form(heads, depth, patch_size, mlp_ratio, side, channels):
    model = _dit(depth, patch_size, mlp_ratio, side * patch_size, channels)
    assert forward_macs(model, 8 * heads) == _dit_macs(model, 8 * heads)


def test_dit_xl_2_has_the_published_118_6_gmac():
    model = _dit(28, 2, 4, 32, 4).model_copy(update={"head_dim": 72, "num_classes": 1000})
    assert round(forward_macs(model, 1152) / 1e9, 1) == 118.6
    assert forward_macs(model, 1152) == _dit_macs(model, 1152)


def test_pixart_has_its_closed_form():
    n, tokens, caption, depth = 48, 16, 6, 2
    per_token = 4 * n + depth * (4 + 2 + 8) * n**2 + 2 * 4 * n  # patches, blocks with cross-attention's q and out, readout
    attention = depth * 2 * tokens * (tokens + caption) * n
    conditioning = 256 * n + n**2 + 6 * n**2 + caption * (16 * n + n**2 + depth * 2 * n**2)
    assert forward_macs(PIXART, n) == tokens * per_token + attention + conditioning


def test_uvit_has_its_closed_form():
    n, patches, depth = 48, 16, 2
    tokens = patches + 2  # time and label
    blocks = (depth + 1) * (tokens * 12 * n**2 + 2 * tokens**2 * n) + depth // 2 * tokens * 2 * n**2
    assert forward_macs(UVIT, n) == patches * 4 * n + blocks + tokens * n * 4 + 8 * 8 * 9


def test_mmdit_has_its_closed_form_and_training_adds_the_projector():
    n, tokens, caption = 48, 16, 20
    both = tokens + caption
    first = both * 12 * n**2 + 2 * both**2 * n + 12 * n**2
    last = tokens * 12 * n**2 + caption * 3 * n**2 + 2 * both**2 * n + 8 * n**2  # its captions only feed the attention
    conditioning = 256 * n + n**2 + 12 * n + n**2 + caption * 16 * n + 2 * n**2
    expected = tokens * (4 * n + n * 4) + first + last + conditioning
    assert forward_macs(MMDIT, n) == expected
    projector = tokens * (n * 16 + 16 * 16 + 16 * 8)
    assert train_flops(MMDIT, n, 7) == 6 * 7 * (expected + projector)
    assert inference_flops(MMDIT, n, 7) == 2 * 7 * expected


@pytest.mark.parametrize("model", [PIXART, UVIT_TEXT, SD3], ids=lambda model: model.family)
def test_the_sections_own_caption_length_counts(model: ModelSection):
    longer = model.model_copy(update={"max_tokens": 7})
    assert forward_macs(longer, 32) > forward_macs(model, 32)


@torch.no_grad()
@pytest.mark.parametrize(("model", "name"), [(DIT, "uvit"), (SD3, "mmdit"), (section("Tiny"), "uvit")])
def test_models_of_your_own_are_counted_as_they_run(model, name):
    module = build(model, 32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs(name, torch.Generator().manual_seed(0), batch=3))
    assert counter.get_total_flops() == 3 * 2 * forward_macs(model, 32)


def test_a_model_that_reads_values_is_counted_in_memory(caplog):
    with caplog.at_level("INFO", logger="mudit"):
        assert forward_macs(section("ReadsValues"), 32) == forward_macs(section("Tiny"), 32)
    assert "are counted in memory: on the meta device" in caplog.text


def test_a_shape_is_counted_once(monkeypatch: pytest.MonkeyPatch):
    model = _dit(1, 2, 3, 6, 2)
    counted = forward_macs(model, 24)
    monkeypatch.setattr(flops, "_count", lambda *arguments: pytest.fail("counted again"))
    assert forward_macs(model.model_copy(), 24) == counted


def test_importing_it_loads_no_torch():
    program = "import sys, mudit.models.flops; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
