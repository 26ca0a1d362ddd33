"""Figures of generated against real features: torch-fidelity's arithmetic where it has any, our own for the spatial distance.

Features are computed once per image set and handed to torch-fidelity as a data set whose "extractor" returns what it is given, or
as moments, so that samples, floor and reference share one pass, and its arithmetic is used as published. docs/evaluation.md says
how each figure relates to that of the ADM evaluator (Dhariwal & Nichol 2021).

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from typing import Any

import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from mudit.config.schema import EvaluateSection
from mudit.errors import ConfigError
from mudit.evaluate.frechet import Gaussian
from mudit.sizes import SCORE_SPLITS

KID_SEED = 2020  # torch-fidelity's own default: which images form the subsets
_ROWS = 2048  # images whose distances to all others are in memory at a time
_PASS_THROUGH = "mudit-features"


class FeatureSet(Dataset[Tensor]):
    """Precomputed features as a torch-fidelity input: item i is a float32 vector [D]."""

    def __init__(self, features_ND: Tensor) -> None:
        self._features_ND = features_ND

    def __len__(self) -> int:
        return len(self._features_ND)

    def __getitem__(self, index: int) -> Tensor:
        return self._features_ND[index]


class PassThrough(torch_fidelity.FeatureExtractorBase):  # type: ignore[misc]
    """The extractor of precomputed features."""

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "features"

    def forward(self, features_BD: Tensor) -> tuple[Tensor]:
        return (features_BD,)


if _PASS_THROUGH not in FEATURE_EXTRACTORS_REGISTRY:
    torch_fidelity.register_feature_extractor(_PASS_THROUGH, PassThrough)


def frechet_distance(generated: Gaussian, real: Gaussian) -> float:
    """torch-fidelity's Fréchet distance between two Gaussians."""
    statistics = ({"mu": each.mean_D, "sigma": each.covariance_DD} for each in (generated, real))
    distance: float = fid_statistics_to_metric(*statistics, verbose=False)[torch_fidelity.KEY_METRIC_FID]
    return distance


def inception_score(logits_NK: Tensor) -> tuple[float, float]:
    """torch-fidelity's inception score (Salimans et al. 2016) in image order: mean and standard deviation over the splits.

    Raises ConfigError if there are fewer images than splits.
    """
    if len(logits_NK) < SCORE_SPLITS:
        raise ConfigError(f"sample.images {len(logits_NK)}: the inception score needs {SCORE_SPLITS} or more; raise it")
    figures = isc_features_to_metric(logits_NK, splits=SCORE_SPLITS, shuffle=False)
    return figures[torch_fidelity.KEY_METRIC_ISC_MEAN], figures[torch_fidelity.KEY_METRIC_ISC_STD]


def neighbour_metrics(generated_ND: Tensor, real_ND: Tensor, section: EvaluateSection) -> dict[str, float]:
    """torch-fidelity's figures for generated against real features, float32 [N, D].

    kernel_distance (mean over subsets) and kernel_distance_std, precision (share of generated images inside the real manifold) and
    recall (share of real images inside the generated one; Kynkäänniemi et al. 2019). Raises ConfigError if a subset of the kernel
    distance or the number of neighbours asks for more images than there are.
    """
    fewest = min(len(generated_ND), len(real_ND))
    if section.kid_subset_size > fewest:
        raise ConfigError(f"evaluate.kid_subset_size {section.kid_subset_size}: the smaller set has {fewest} images; lower it")
    if section.neighbours >= fewest:
        raise ConfigError(f"evaluate.neighbours {section.neighbours}: the smaller set has {fewest} images; lower it")
    figures = _figures(generated_ND, real_ND, section, kid=True, prc=True)
    return {
        "kernel_distance": figures[torch_fidelity.KEY_METRIC_KID_MEAN],
        "kernel_distance_std": figures[torch_fidelity.KEY_METRIC_KID_STD],
        "precision": figures[torch_fidelity.KEY_METRIC_PRECISION],
        "recall": figures[torch_fidelity.KEY_METRIC_RECALL],
    }


def kernel_distance(generated_ND: Tensor, real_ND: Tensor, section: EvaluateSection) -> tuple[float, float]:
    """torch-fidelity's kernel distance alone: mean and standard deviation over subsets, none larger than either set."""
    figures = _figures(generated_ND, real_ND, section, kid=True)
    return figures[torch_fidelity.KEY_METRIC_KID_MEAN], figures[torch_fidelity.KEY_METRIC_KID_STD]


def _figures(generated_ND: Tensor, real_ND: Tensor, section: EvaluateSection, **wanted: bool) -> dict[str, float]:
    return torch_fidelity.calculate_metrics(
        input1=FeatureSet(generated_ND),
        input2=FeatureSet(real_ND),
        feature_extractor=_PASS_THROUGH,
        kid_subsets=section.kid_subsets,
        kid_subset_size=section.kid_subset_size,
        prc_neighborhood=section.neighbours,
        prc_batch_size=_ROWS,
        rng_seed=KID_SEED,
        batch_size=4096,
        save_cpu_ram=True,  # or it starts worker processes to copy vectors
        cuda=False,
        cache=False,
        verbose=False,
        **wanted,
    )
