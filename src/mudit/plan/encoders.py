"""Multiply-adds of the frozen networks around the transformer: autoencoder, text and image encoders, metrics. Imports no torch.

Closed forms of the published architectures; tests hold them equal to the networks of `diffusers` and `transformers`, built on the
meta device. Which of them a folder holds is not looked at: `autoencoder-kl` counts as Stable Diffusion's, `t5` as T5-XXL, `clip` as
CLIP-L, or as CLIP-bigG where the model expects its 1,280 channels, `dinov2` as ViT-B.
"""

from __future__ import annotations

from mudit.config.data import FeatureSection, TextEncoderSection

# Stable Diffusion's autoencoder, eight times smaller latents: multiply-adds of the convolutions per pixel of the image, by latent
# channels (4: SD 1 and 2; 16: SD 3). The attention in its middle comes on top.
_VAE_ENCODE = {4: 2_064_321, 16: 2_066_048}
_VAE_DECODE = {4: 4_730_528.25, 16: 4_731_392}
_VAE_STRIDE, _VAE_WIDTH = 8, 512
VAE_BYTES = 4 * 83_653_863  # float32 weights, which the store keeps a copy of

_T5_XXL = (4096, 10240, 24)  # width, MLP, layers; a gated MLP of three matrices
_MINILM = (384, 1536, 6)
_CLIP_L = (768, 3072, 12)
_CLIP_G = (1280, 5120, 32)
_CLIP_TOKENS = 77  # always padded to so many
_DINOV2_B = (768, 3072, 12)
_DINOV2_PATCH = 14

_CLIP_L_VISION = (1024, 4096, 24)
_CLIP_L_PATCHES, _CLIP_L_PATCH, _CLIP_L_SPACE = 256, 14, 768
# Mask2Former with Swin-S and 100 queries on 800 x 800 pixels, to which square images are enlarged: counted on transformers' model.
MASK2FORMER = 220_909_740_032

INCEPTION = 5_713_216_096  # Inception-v3 at 299 pixels
EFFICIENTNET = 87_627_248  # EfficientNet-Lite0 at 112 pixels


def vae_encode(side: int, latent_channels: int) -> float:
    """Of one image of `side` pixels."""
    return side**2 * _VAE_ENCODE[_known(latent_channels)] + _vae_attention(side)


def vae_decode(side: int, latent_channels: int) -> float:
    """Of one image of `side` pixels."""
    return side**2 * _VAE_DECODE[_known(latent_channels)] + _vae_attention(side)


def text(section: TextEncoderSection, tokens: float, width: int) -> float:
    """Of one caption of `tokens` tokens; `width`: channels of the features, which tell the sizes of CLIP apart."""
    if section.name == "t5":
        d, mlp, layers = _T5_XXL
        return layers * (tokens * (4 * d * d + 3 * d * mlp) + 2 * tokens**2 * d)
    if section.name == "minilm":
        return _transformer(_MINILM, tokens) + _MINILM[0] ** 2  # the pooler
    size = _CLIP_G if width == _CLIP_G[0] else _CLIP_L
    return _transformer(size, _CLIP_TOKENS) + size[0] ** 2  # the projection


def features(section: FeatureSection) -> float:
    """Of one image's features per patch. EfficientNet-Lite0 counts as the whole network, scaled by its input's area."""
    if section.encoder == "efficientnet-lite0":
        return EFFICIENTNET * (16 * section.grid / 112) ** 2
    d = _DINOV2_B[0]
    return _transformer(_DINOV2_B, section.grid**2 + 1) + section.grid**2 * 3 * _DINOV2_PATCH**2 * d


def clip_vision() -> float:
    """Of one image through CLIP ViT-L/14."""
    d = _CLIP_L_VISION[0]
    patches = _CLIP_L_PATCHES * 3 * _CLIP_L_PATCH**2 * d
    return patches + _transformer(_CLIP_L_VISION, _CLIP_L_PATCHES + 1) + d * _CLIP_L_SPACE


def extractor(name: str) -> float:
    """Of one image's features for the metrics; `digits-cnn` is too small to count."""
    return {"inception-v3-compat": INCEPTION, "efficientnet-lite0": EFFICIENTNET}.get(name, 0)


def _transformer(size: tuple[int, int, int], tokens: float) -> float:
    d, mlp, layers = size
    return layers * (tokens * (4 * d * d + 2 * d * mlp) + 2 * tokens**2 * d)


def _vae_attention(side: int) -> float:
    return 2 * _VAE_WIDTH * (side // _VAE_STRIDE) ** 4


def _known(latent_channels: int) -> int:
    """Any other number of channels changes two thin layers only."""
    return 16 if latent_channels >= 16 else 4
