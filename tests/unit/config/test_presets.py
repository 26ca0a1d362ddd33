"""Published models: parameters and products as their papers have them, and the same sections as the paper's experiments."""

from __future__ import annotations

import pytest

from mudit.config.load import load
from mudit.config.presets import PRESETS
from mudit.models.flops import forward_macs
from mudit.parametrization.show_presets import parameters
from support import ROOT

# Millions of parameters as the papers state them. DiT's and U-ViT's tables; the muP paper's names and its code for the others:
# PixArt-α's counts leave the null caption out, 120 x 4096 there in a buffer, and MMDiT's the projector of REPA.
MILLIONS = {
    **{f"DiT-{size}/{patch}": millions for size, millions in (("S", 33), ("B", 130), ("L", 458)) for patch in (2, 4)},
    "DiT-S/8": 33,
    "DiT-B/8": 131,
    "DiT-L/8": 459,
    "DiT-XL/2": 675,
    "DiT-XL/4": 675,
    "DiT-XL/8": 676,
    "PixArt-0.04B": 39.25 + 0.49152,
    "PixArt-0.61B": 610.86 + 0.49152,
    "U-ViT-S/2": 44,
    "U-ViT-S-deep/2": 58,
    "U-ViT-M/4-pixels": 131,
    "U-ViT-L/4-pixels": 287,
    "U-ViT-L/2": 287,
    "U-ViT-L/4": 287,
    "U-ViT-H/2": 501,
    "U-ViT-H/4": 501,
    "MMDiT-0.18B": 180 + 6.82,
    "MMDiT-18B": 17_727 + 16.26,
}
# Multiply-adds of one image in billions, DiT's table of models.
GIGAMACS = {
    "DiT-S/8": 0.36,
    "DiT-S/4": 1.41,
    "DiT-S/2": 6.06,
    "DiT-B/8": 1.42,
    "DiT-B/4": 5.56,
    "DiT-B/2": 23.01,
    "DiT-L/8": 5.01,
    "DiT-L/4": 19.70,
    "DiT-L/2": 80.71,
    "DiT-XL/8": 7.39,
    "DiT-XL/4": 29.05,
    "DiT-XL/2": 118.64,
}


def test_every_preset_has_the_published_number_of_parameters():
    counted = {name: parameters(preset) / 1e6 for name, preset in PRESETS.items()}
    assert counted.keys() == MILLIONS.keys()
    off = {name: (count, MILLIONS[name]) for name, count in counted.items() if abs(count - MILLIONS[name]) > 0.8}
    assert off == {}
    assert counted["PixArt-0.61B"] == pytest.approx(MILLIONS["PixArt-0.61B"], abs=0.005), "known to two digits more"


def test_dits_compute_what_their_paper_counts():
    counted = {name: forward_macs(PRESETS[name].model, PRESETS[name].width) / 1e9 for name in GIGAMACS}
    assert counted == pytest.approx(GIGAMACS, rel=0.02, abs=0.005)


@pytest.mark.parametrize(
    ("experiment", "name"), [("dit-imagenet", "DiT-XL/2"), ("pixart-sa1b", "PixArt-0.61B"), ("mmdit-18b", "MMDiT-18B")]
)
def test_the_papers_experiments_train_the_preset(experiment, name):
    configured = load(ROOT / "config.yaml").experiments[experiment]
    assert configured.model == PRESETS[name].model
    assert configured.train.width == PRESETS[name].width
