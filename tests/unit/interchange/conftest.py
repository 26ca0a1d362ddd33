"""Tiny models of each family with random weights, a tiny autoencoder, and a project that has both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mudit.config.load import load
from mudit.interchange.architecture import Stated
from mudit.models.dit import DiT
from mudit.models.mmdit import MMDiT
from mudit.models.pixart import PixArt
from mudit.models.uvit import UViT
from support import ROOT

WIDTH, DEPTH, TEXT, POOLED, TOKENS = 32, 2, 12, 10, 5
SIZES = {"width": WIDTH, "depth": DEPTH, "head_dim": 8, "patch_size": 2, "mlp_ratio": 4, "image_size": 4, "channels": 4}
MODELS = {
    "dit": lambda: DiT(**SIZES, num_classes=10),
    "pixart": lambda: PixArt(**SIZES, text_dim=TEXT, max_tokens=TOKENS),
    "uvit": lambda: UViT(**SIZES, num_classes=10, final_conv=True),
    "mmdit": lambda: MMDiT(**SIZES, text_dim=TEXT, pooled_dim=POOLED, qk_norm=True),
}
# What the owner must say of each, because no shape tells it.
STATED = {
    "dit": Stated(head_dim=8, image_size=4),
    "pixart": Stated(head_dim=8, image_size=4),
    "uvit": Stated(head_dim=8),
    "mmdit": Stated(image_size=4, max_tokens=TOKENS),
}


def randomise(model, seed=0):
    """Every weight a normal of a size that keeps the output moderate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    return model.eval()


@pytest.fixture
def models():
    """family -> a fresh tiny model."""
    return {family: randomise(make()) for family, make in MODELS.items()}


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory) -> Path:
    """Of one channel, as digits are."""
    return write_autoencoder(tmp_path_factory.mktemp("vae") / "vae", 1)


def write_autoencoder(folder: Path, channels: int) -> Path:
    """A tiny AutoencoderKL: pixels of 8 to latents of 4 x 4 x 4."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        in_channels=channels, out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=8,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch, autoencoder):
    """A working directory whose one experiment, on digits, has no training: it samples and scores what is imported.

    Returns a function that writes `config.yaml` with changed sections, those that are None left out, and loads it.
    """
    monkeypatch.chdir(tmp_path)
    raw: dict[str, Any] = yaml.safe_load((ROOT / "tests/smoke/config.yaml").read_text())
    smoke = raw["experiments"]["smoke"]
    for name in ("sweep", "select", "transfer", "train"):
        del smoke[name]
    smoke["model"] |= {"depth": DEPTH, "patch_size": 2, "mlp_ratio": 4, "image_size": 4, "channels": 4}
    smoke["data"] |= {"encoder": "autoencoder-kl", "encoder_path": str(autoencoder), "latent_scale": 0.5}
    smoke["coordcheck"] |= {"widths": [16, 32, 64], "steps": 1, "also": []}
    smoke["sample"] |= {"train_seeds": [], "images": 40, "steps": 4, "batch_size": 20}

    def write(*, pixels=False, **sections):
        written = {name: section for name, section in (smoke | sections).items() if section is not None}
        if pixels:  # a run of its own, without an autoencoder, and nothing imported to sample
            written["model"] = smoke["model"] | {"channels": 1, "image_size": 8}
            written["data"] = smoke["data"] | {"encoder": "identity", "encoder_path": None, "latent_scale": 1.0}
            del written["sample"], written["evaluate"]
        raw["experiments"]["smoke"] = written
        Path("config.yaml").write_text(yaml.safe_dump(raw))
        return load(Path("config.yaml"))

    return write


@pytest.fixture(scope="session")
def t5(tmp_path_factory) -> Path:
    """A folder with a tiny T5 encoder and a tokenizer that makes the end token of the empty caption."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=8, d_model=TEXT, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return folder
