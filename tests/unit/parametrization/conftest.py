"""Small models shared by the parametrization tests."""

from __future__ import annotations

import pytest

from mudit.config.models import DiTSection


@pytest.fixture
def small_model() -> DiTSection:
    """A two-block DiT for 8x8 images; base width 32."""
    return DiTSection(
        family="dit",
        depth=2,
        head_dim=8,
        patch_size=2,
        mlp_ratio=4,
        image_size=8,
        channels=1,
        num_classes=10,
        base_width=32,
        delta_width=40,
        output_mult=1.0,
    )


@pytest.fixture
def imagenet_model() -> DiTSection:
    """The DiT-XL/2 family of the paper: base width 288, delta 360."""
    return DiTSection(
        family="dit",
        depth=28,
        head_dim=72,
        patch_size=2,
        mlp_ratio=4,
        image_size=32,
        channels=4,
        num_classes=1000,
        base_width=288,
        delta_width=360,
        output_mult=1.0,
    )
