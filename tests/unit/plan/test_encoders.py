"""Closed forms of the frozen networks against diffusers' and transformers' own, on the meta device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    T5Config,
    T5EncoderModel,
)

from mudit.config.data import FeatureSection, TextEncoderSection
from mudit.evaluate.extractors import load_extractor
from mudit.plan import encoders, estimate


def _macs(run: Callable[[], object]) -> int:
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def _tokens(count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.long)


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("side", [64, 256])
def test_the_autoencoder(side, channels):
    with torch.device("meta"):
        network = AutoencoderKL(
            latent_channels=channels,
            use_quant_conv=channels == 4,
            use_post_quant_conv=channels == 4,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512],
            layers_per_block=2,
        ).eval()
    assert encoders.vae_encode(side, channels) == _macs(lambda: network.encode(torch.zeros(1, 3, side, side)))
    assert encoders.vae_decode(side, channels) == _macs(lambda: network.decode(torch.zeros(1, channels, side // 8, side // 8)))
    if channels == 4:
        assert sum(parameter.numel() for parameter in network.parameters()) * 4 == encoders.VAE_BYTES


def test_t5_xxl():
    with torch.device("meta"):
        network = T5EncoderModel(
            T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
        ).eval()
    for count in (7, 120):
        expected = _macs(lambda count=count: network(input_ids=_tokens(count)))
        assert encoders.text(TextEncoderSection(name="t5", path=None), count, 4096) == expected


@pytest.mark.parametrize(("width", "mlp", "layers"), [(768, 3072, 12), (1280, 5120, 32)])
def test_clip(width, mlp, layers):
    shape = {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers, "projection_dim": width}
    with torch.device("meta"):
        network = CLIPTextModelWithProjection(CLIPTextConfig(num_attention_heads=width // 64, **shape)).eval()
    assert encoders.text(TextEncoderSection(name="clip", path=None), 20, width) == _macs(lambda: network(input_ids=_tokens(77)))


def test_minilm():
    with torch.device("meta"):
        network = BertModel(BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)).eval()
    assert encoders.text(TextEncoderSection(name="minilm", path=None), 17, 384) == _macs(lambda: network(input_ids=_tokens(17)))


def test_dinov2():
    with torch.device("meta"):
        network = Dinov2Model(Dinov2Config(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, patch_size=14)).eval()
    section = FeatureSection(encoder="dinov2", encoder_path="models/dinov2", grid=16)
    assert encoders.features(section) == _macs(lambda: network(pixel_values=torch.zeros(1, 3, 224, 224)))


def test_the_extractors():
    from efficientnet_lite_pytorch import EfficientNet
    from torchvision.models import inception_v3

    with torch.device("meta"):
        inception = inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
    assert encoders.extractor("inception-v3-compat") == _macs(lambda: inception(torch.zeros(1, 3, 299, 299)))
    lite = EfficientNet.from_name("efficientnet-lite0").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        lite.extract_features(torch.zeros(1, 3, 112, 112))
    assert encoders.extractor("efficientnet-lite0") == counter.get_total_flops() // 2
    assert encoders.extractor("digits-cnn") == 0


def test_layers_of_the_extractor_are_as_wide_as_it_gives_them(tmp_path):
    seen = load_extractor("efficientnet-lite0", tmp_path).features([torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
    assert tuple(layer.shape[1] for layer in seen) == estimate._SEEN["efficientnet-lite0"]
