"""Tiny packages, encoders and stores of the data tests. Nothing here needs a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mudit.config.data import DataSection
from mudit.data.encoders import open_encoder
from mudit.data.features import open_feature_encoder
from mudit.data.format import StoreInfo
from mudit.data.sources import open_source
from mudit.data.text import CaptionEncoder
from mudit.data.writer import StoreWriter
from mudit.packages import EMOJIBASE, FLUENT_3D, NOTO, package_folder
from support import word_tokenizer

MINILM = {"name": "minilm", "path": None}
CAPTIONS = {"tokens": MINILM, "pooled": MINILM, "max_tokens": 20, "storage": "float16"}
FEATURES = {"encoder": "efficientnet-lite0", "encoder_path": None, "grid": 2}

# hexcode, label, group, subgroup and whether both styles draw it
EMOJI = [
    ("1F34E", "red apple", 4, 42, True),
    ("1F9C5", "onion", 4, 43, True),
    ("2764-FE0F", "red heart", 0, 14, True),
    ("1F440", "eyes", 1, 22, True),
    ("1F46A", "family: man, boy", 1, 30, True),
    ("1F385", "Santa Claus", 1, 26, True),
    ("1F436", "dog face", 3, 34, True),
    ("1F43C", "panda", 3, 34, False),
    ("1F1EF-1F1F5", "flag: Japan", 9, 98, True),
    ("1F3FB", "light skin tone", 2, 32, True),
]


def section(**changes: Any) -> DataSection:
    """A data section: eight-pixel digits unless something is changed."""
    fields: dict[str, Any] = {
        "source": {"kind": "sklearn-digits"},
        "share": 1.0,
        "image_size": 8,
        "encoder": "identity",
        "encoder_path": None,
        "encoder_sha256": None,
        "latent_scale": 1.0,
        "latent_shift": 0.0,
        "moments": "float32",
        "flip": False,
        "captions": None,
        "features": None,
        "shard_images": 512,
        "max_corrupt_share": 0.0,
        "validation_images": 297,
        "split_seed": 0,
    }
    return DataSection.model_validate(fields | changes)


def emoji_section(**changes: Any) -> DataSection:
    """Emoji with captions and image features, in shards of five images."""
    fields: dict[str, Any] = {
        "source": {"kind": "emoji", "styles": ["noto", "fluent-3d"]},
        "image_size": 16,
        "captions": CAPTIONS,
        "features": FEATURES,
        "shard_images": 5,
        "validation_images": 4,
    }
    return section(**(fields | changes))


def write_store(data: DataSection, folder: Path, state: Path) -> StoreInfo:
    """What the stage does, without its job."""
    folder.mkdir(exist_ok=True)
    text = CaptionEncoder(data.captions) if data.captions is not None else None
    features = open_feature_encoder(data.features) if data.features is not None else None
    writer = StoreWriter(data, open_source(data), open_encoder(data), folder, state, text, features)
    return writer.write(lambda images: None)


@pytest.fixture(scope="session")
def emoji_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the three emoji packages: ten codes with drawings of one colour, half transparent."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUDIT_CACHE", str(cache))
        names, noto, fluent = (package_folder(package) for package in (EMOJIBASE, NOTO, FLUENT_3D))
    for folder in (names / "en", noto / "img/google/64", fluent / "assets"):
        folder.mkdir(parents=True)
    entries = [{"hexcode": code, "label": label, "group": group, "subgroup": sub} for code, label, group, sub, _ in EMOJI]
    letter = {"hexcode": "1F1E6", "label": "regional indicator A"}
    (names / "en" / "data.json").write_text(json.dumps([letter, *entries]))
    for place, (code, *_, both) in enumerate(EMOJI):
        drawing(40 + 20 * place, 64).save(noto / "img/google/64" / f"{code.lower()}.png")
        if both:  # this package leaves FE0F out
            drawing(220 - 20 * place, 256).save(fluent / "assets" / f"{code.lower().removesuffix('-fe0f')}.webp", lossless=True)
    return cache


@pytest.fixture
def emoji_cache(emoji_packages: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That cache, in use."""
    monkeypatch.setenv("MUDIT_CACHE", str(emoji_packages))
    return emoji_packages


@pytest.fixture(scope="session")
def emoji_store(emoji_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of those emoji, with MiniLM captions and EfficientNet features."""
    folder = tmp_path_factory.mktemp("emoji")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUDIT_CACHE", str(emoji_packages))
        write_store(emoji_section(), folder / "store", folder / "state")
    return folder / "store"


def drawing(red: int, side: int) -> Image.Image:
    """Left half opaque, right half transparent, with a colour under the transparency that nobody may see."""
    pixels = np.zeros((side, side, 4), dtype=np.uint8)
    pixels[:, :, 0], pixels[:, : side // 2, 3] = red, 255
    return Image.fromarray(pixels, "RGBA")


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 of width 8, with its decoder, as published checkpoints have one."""
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    word_tokenizer(folder, "a red green apple", limit=512)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP text tower of width 8 with a projection to 6 and 7 positions."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=16,
        projection_dim=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=7,
        bos_token_id=0,
        eos_token_id=1,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    word_tokenizer(folder, "a red green apple", limit=7)
    return folder


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DINOv2 of width 8 with patches of 14 pixels."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder
