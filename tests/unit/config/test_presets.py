"""Published models: parameters and products as their public code has them, and the same sections as the paper's experiments."""

from __future__ import annotations

import pytest

from mudit.config.load import load
from mudit.config.presets import PRESETS
from mudit.models.flops import forward_macs
from mudit.parametrization.show_presets import parameters
from support import ROOT

# Millions of parameters. DiT's and U-ViT's were counted on the public code, built at these sizes: github.com/facebookresearch/DiT,
# models.py at ed81ce2, and github.com/baofff/U-ViT, libs/ at ce55170 with the sizes of its configs/. The two U-ViTs on
# pixels have no null class there, so one row of labels less.
COUNTED = {
    "DiT-S/2": 32.865056,
    "DiT-S/4": 32.920448,
    "DiT-S/8": 33.142016,
    "DiT-B/2": 130.315808,
    "DiT-B/4": 130.426496,
    "DiT-B/8": 130.869248,
    "DiT-L/2": 457.840672,
    "DiT-L/4": 457.988224,
    "DiT-L/8": 458.578432,
    "DiT-XL/2": 674.834720,
    "DiT-XL/4": 675.000704,
    "DiT-XL/8": 675.664640,
    "U-ViT-S/2": 44.692644,
    "U-ViT-S-deep/2": 58.345636,
    "U-ViT-M/4-pixels": 130.940292 + 0.000768,
    "U-ViT-L/4-pixels": 286.827652 + 0.001024,
    "U-ViT-L/2": 286.763172,
    "U-ViT-L/4": 286.861524,
    "U-ViT-H/2": 500.832016,
    "U-ViT-H/4": 500.942656,
}
# The muP paper's names and its code: PixArt-α's counts leave the null caption out, 120 x 4096 there in a buffer, and MMDiT's the
# projector of REPA.
STATED = {
    "PixArt-0.04B": 39.25 + 0.49152,
    "PixArt-0.61B": 610.86 + 0.49152,
    "MMDiT-0.18B": 180 + 6.82,
    "MMDiT-18B": 17_727 + 16.26,
}
# Multiply-adds of one image in billions, counted on DiT's public code by torch's counter. Its README says 119 for XL/2.
GIGAMACS = {
    "DiT-S/8": 0.358,
    "DiT-S/4": 1.413,
    "DiT-S/2": 6.056,
    "DiT-B/8": 1.418,
    "DiT-B/4": 5.565,
    "DiT-B/2": 23.005,
    "DiT-L/8": 5.011,
    "DiT-L/4": 19.696,
    "DiT-L/2": 80.698,
    "DiT-XL/8": 7.392,
    "DiT-XL/4": 29.044,
    "DiT-XL/2": 118.621,
}


def test_every_preset_has_the_published_number_of_parameters():
    counted = {name: parameters(preset) / 1e6 for name, preset in PRESETS.items()}
    assert counted.keys() == COUNTED.keys() | STATED.keys()
    assert {name: round(counted[name], 6) for name in COUNTED} == {name: round(count, 6) for name, count in COUNTED.items()}
    off = {name: (counted[name], count) for name, count in STATED.items() if abs(counted[name] - count) > 0.8}
    assert off == {}
    assert counted["PixArt-0.61B"] == pytest.approx(STATED["PixArt-0.61B"], abs=0.005), "known to two digits more"


def test_dits_compute_what_their_public_code_computes():
    counted = {name: round(forward_macs(PRESETS[name].model, PRESETS[name].width) / 1e9, 3) for name in GIGAMACS}
    assert counted == GIGAMACS
    assert round(counted["DiT-XL/2"]) == 119


@pytest.mark.parametrize(
    ("experiment", "name"), [("dit-imagenet", "DiT-XL/2"), ("pixart-sa1b", "PixArt-0.61B"), ("mmdit-18b", "MMDiT-18B")]
)
def test_the_papers_experiments_train_the_preset(experiment, name):
    configured = load(ROOT / "config.yaml").experiments[experiment]
    assert configured.model == PRESETS[name].model
    assert configured.train.width == PRESETS[name].width
