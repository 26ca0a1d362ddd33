"""Metric records of one set of generated images, each beside the real-vs-real floor.

Two comparisons are made, both against the *reference* (training images, or a published file):
- `value`: all n generated images;
- `matched`: the first m generated images and, as floor, m held-out images, m being the smaller of the two counts.

The floor uses held-out images because the extractor may have been trained on the training images: two halves of those would look
closer to each other than new images can. It uses equal counts because every estimate here depends on the number of images (a
Fréchet distance grows as images get fewer). A perfect generator scores the floor, not zero.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mudit.config.schema import EvaluateSection
from mudit.errors import ConfigError
from mudit.evaluate.extractors import SPATIAL_CHANNELS, Features
from mudit.evaluate.frechet import Estimate, Gaussian, Reference, estimate
from mudit.evaluate.intervals import jackknife, student, wilson
from mudit.evaluate.metrics import (
    KID_SEED,
    frechet_distance,
    inception_score,
    kernel_distance,
    neighbour_metrics,
)
from mudit.evaluate.reference import Real
from mudit.sizes import JACKKNIFE_GROUPS, SCORE_SPLITS

FRECHET, SPATIAL_FRECHET, SCORE = "frechet_distance", "spatial_frechet_distance", "inception_score"
KERNEL, PRECISION, RECALL = "kernel_distance", "precision", "recall"
DISTRIBUTION_METRICS = (FRECHET, SPATIAL_FRECHET, SCORE, KERNEL, PRECISION, RECALL)
ACCURACY = "conditional_accuracy"
_JACKKNIFE = f"delete-a-group jackknife over generated images, {JACKKNIFE_GROUPS} groups, reference fixed"
_FIRST_ORDER = f"{_JACKKNIFE}, distances without a group to first order"

Record = dict[str, Any]


def unusable_records(names: list[str], reason: str, count: int) -> list[Record]:
    """Records without a value, and why."""
    return [{"metric": name, "value": None, "reason": reason, "n": count} for name in names]


class Judge:
    """Compares sets of generated images with one reference. What depends on real images alone is computed once for all sets."""

    def __init__(self, real: Real, section: EvaluateSection) -> None:
        self._real, self._section = real, section
        self._reference, self._spatial = Reference(real.gaussian), Reference(real.spatial)
        self._floors: dict[int, dict[str, float]] = {}

    def distribution_records(self, features: Features) -> list[Record]:
        """One record per name in `DISTRIBUTION_METRICS`. Raises ConfigError if the settings ask for more images than there are."""
        matched = min(features.images, self._real.held_out.images)
        pooled = estimate(features.features_ND.numpy(), self._reference, JACKKNIFE_GROUPS)
        spatial = estimate(features.spatial_NS.numpy(), self._spatial, JACKKNIFE_GROUPS)
        whole = self._figures(features, pooled.gaussian, spatial.distance)
        prefix = whole if matched == features.images else self._plain_figures(features.first(matched))
        floor = self._floor(matched)
        details = {
            FRECHET: frechet_details(whole[FRECHET], pooled) | {"second_opinion": pooled.distance},
            SPATIAL_FRECHET: frechet_details(whole[SPATIAL_FRECHET], spatial) | {"channels": SPATIAL_CHANNELS},
            SCORE: _score_details(whole[SCORE], whole["inception_score_std"]),
            KERNEL: _kernel_details(whole["kernel_distance_std"], self._section),
            PRECISION: _share_details(whole[PRECISION], features.images, "generated images") | self._neighbours,
            RECALL: _share_details(whole[RECALL], len(self._real.kept_ND), "kept reference images") | self._neighbours,
        }
        return [
            {
                "metric": name,
                "value": whole[name],
                "n": features.images,
                "matched": {"n": matched, "value": prefix[name], "floor": floor[name]},
                **details[name],
            }
            for name in DISTRIBUTION_METRICS
        ]

    def class_records(self, features_ND: Tensor, labels_N: Tensor, class_names: list[str]) -> list[Record]:
        """The kernel distance of each class to the reference images of that class; no value for one that a set has no images of.

        Raises ConfigError, naming the class, if a subset asks for more images than there are.
        """
        records: list[Record] = []
        for label, name in enumerate(class_names):
            generated_ND = features_ND[labels_N == label]
            reference_ND, held_out_ND = self._real.kept_of_class(label), self._real.held_out_of_class(label)
            fewest = min(len(generated_ND), len(reference_ND), len(held_out_ND))
            if fewest == 0:
                records += unusable_records([class_metric(name)], "a class without generated, held-out or training images", 0)
                continue
            if self._section.kid_subset_size > fewest:
                raise ConfigError(
                    f"evaluate.kid_subset_size {self._section.kid_subset_size}: class {name} has {len(generated_ND)} generated, "
                    f"{len(held_out_ND)} held-out and {len(reference_ND)} training images; lower it, or sample more"
                )
            matched = min(len(generated_ND), len(held_out_ND))
            value, std = kernel_distance(generated_ND, reference_ND, self._section)
            prefix = value if matched == len(generated_ND) else self._kernel(generated_ND[:matched], reference_ND)
            records.append(
                {
                    "metric": class_metric(name),
                    "class": name,
                    "value": value,
                    "n": len(generated_ND),
                    "matched": {"n": matched, "value": prefix, "floor": self._kernel(held_out_ND[:matched], reference_ND)},
                    **_kernel_details(std, self._section),
                }
            )
        return records

    @property
    def _neighbours(self) -> Record:
        """What else a precision or recall depends on."""
        kept = len(self._real.kept_ND)
        return {"neighbours": self._section.neighbours, "reference_images": kept, "distances": "float32"}

    def _kernel(self, features_ND: Tensor, reference_ND: Tensor) -> float:
        return kernel_distance(features_ND, reference_ND, self._section)[0]

    def _floor(self, count: int) -> dict[str, float]:
        if count not in self._floors:
            self._floors[count] = self._plain_figures(self._real.held_out.first(count))
        return self._floors[count]

    def _plain_figures(self, features: Features) -> dict[str, float]:
        """Of a set whose figures have no intervals."""
        spatial_distance = self._spatial.distance(features.spatial_NS.numpy())
        return self._figures(features, Gaussian.of(features.features_ND.numpy()), spatial_distance)

    def _figures(self, features: Features, pooled: Gaussian, spatial_distance: float) -> dict[str, float]:
        """Every figure of one set, generated or real."""
        score, std = inception_score(features.logits_NK)
        return {
            FRECHET: frechet_distance(pooled, self._real.gaussian),
            SPATIAL_FRECHET: spatial_distance,
            SCORE: score,
            "inception_score_std": std,
            **neighbour_metrics(features.features_ND, self._real.kept_ND, self._section),
        }


def frechet_details(value: float, found: Estimate) -> Record:
    """Interval of a Fréchet distance, and how it was found."""
    method = _FIRST_ORDER if found.first_order else _JACKKNIFE
    return {"interval": jackknife(value, found.without_group), "interval_method": method}


def class_metric(class_name: str) -> str:
    """Name of the metric that compares the images of one class."""
    return f"kernel_distance/{class_name}"


def accuracy_record(logits_NK: Tensor, labels_N: Tensor, held_out: int, identity: dict[str, Any]) -> Record:
    """Share of generated images that the classifier assigns to the class asked for; the floor is its share on held-out ones."""
    if not identity["knows_classes"]:
        reason = f"{identity['name']} does not know the classes of this data set"
        return unusable_records([ACCURACY], reason, len(labels_N))[0]
    matched = min(len(labels_N), held_out)
    correct_N = (logits_NK.argmax(dim=1) == labels_N).float()
    return {
        "metric": ACCURACY,
        "n": len(labels_N),
        "matched": {"n": matched, "value": correct_N[:matched].mean().item(), "floor": identity["accuracy"]["validation"]["value"]},
        **_share_details(correct_N.mean().item(), len(labels_N), "generated images"),
    }


def _score_details(value: float, std: float) -> Record:
    """The splits are disjoint, so leaving one out is Student's interval of their mean."""
    return {
        "splits": SCORE_SPLITS,
        "interval": student(value, std / math.sqrt(SCORE_SPLITS - 1), SCORE_SPLITS),  # the std is divided by the number of splits
        "interval_method": f"delete-a-group jackknife, which is Student's interval, over the {SCORE_SPLITS} splits in image order",
    }


def _kernel_details(std: float, section: EvaluateSection) -> Record:
    return {"std": std, "std_of": f"{section.kid_subsets} subsets of {section.kid_subset_size} images, seed {KID_SEED}"}


def _share_details(value: float, count: int, over: str) -> Record:
    hits = round(value * count)  # torch-fidelity's shares are float32
    return {"value": hits / count, "interval": wilson(hits, count), "interval_method": f"Wilson, over {over}"}
