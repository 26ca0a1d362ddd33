"""How large a latent store will be, before any of it is made. Imports no torch, so that a plan can be printed on a login node.

Lengths of captions and widths of text features are the caller's: they are known only to the text encoder.
"""

from __future__ import annotations

import json
from pathlib import Path

from mudit.config.data import DataSection, FeatureSection

MOMENT_BYTES = {"float32": 4, "float16": 2}
TOKEN_BYTES = {"float16": 2, "bfloat16": 2, "int8": 1}
_SCALE_BYTES = 4  # of one token in int8
_HEADER_BYTES = 256  # of one safetensors file, about
_CAPTION_BYTES = 6  # of one token's text and its share of punctuation, about: English through T5's tokenizer
_EFFICIENTNET_CHANNELS = 112
_DINOV2_BASE = 768  # DINOv2 ViT-B, what published REPA uses


def store_bytes(
    data: DataSection, model_channels: int, latent_side: int, images: int, mean_tokens: float, token_dim: int, pooled_dim: int
) -> int:
    """Bytes of the store's shards and captions, without the autoencoder's own files.

    images: those that enter the store, after `data.share`. model_channels, latent_side: C and H = W of the latents. mean_tokens:
    tokens of a caption on average, at most `max_tokens`; token_dim, pooled_dim: E and P; all three are ignored without captions.
    Image features of a DINOv2 whose folder is not there yet are taken to be those of ViT-B, 768 wide.
    """
    tensors = (2 if data.encoder == "autoencoder-kl" else 1) * (2 if data.flip else 1)
    label = 8
    image = tensors * model_channels * latent_side**2 * MOMENT_BYTES[data.moments] + label
    total = images * image + _shards(data, images) * _HEADER_BYTES
    if data.captions is not None:
        caption = mean_tokens * _CAPTION_BYTES
        if data.captions.storage != "on-the-fly":
            scale = _SCALE_BYTES if data.captions.storage == "int8" else 0
            end = 8
            caption += mean_tokens * (token_dim * TOKEN_BYTES[data.captions.storage] + scale) + 4 * pooled_dim + end
        total += round(images * caption)
    if data.features is not None:
        total += images * data.features.grid**2 * _feature_dim(data.features) * 2
    return total


def store_files(data: DataSection, images: int) -> int:
    """Files of the store: shards, captions, `store.json` and the autoencoder's own two."""
    per_shard = 1 if data.captions is None else 2
    return per_shard * _shards(data, images) + 1 + (2 if data.encoder == "autoencoder-kl" else 0)


def _shards(data: DataSection, images: int) -> int:
    held_out = min(data.validation_images, images)
    return -(-held_out // data.shard_images) - (-(images - held_out) // data.shard_images)


def _feature_dim(section: FeatureSection) -> int:
    if section.encoder == "efficientnet-lite0":
        return _EFFICIENTNET_CHANNELS
    config = Path(section.encoder_path or "") / "config.json"
    return int(json.loads(config.read_text(encoding="utf-8"))["hidden_size"]) if config.is_file() else _DINOV2_BASE
