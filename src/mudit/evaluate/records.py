"""Metric records of one set of generated images, each beside the real-vs-real floor.

Two comparisons are made, both against the training images (the *reference*):
- `value`: all n generated images;
- `matched`: the first m generated images and, as floor, m held-out images, m being the smaller of the two counts.

The floor uses held-out images because the extractor may have been trained on the training images: two halves of those would look
closer to each other than new images can. It uses equal counts because every estimate here depends on the number of images (a
Fréchet distance grows as images get fewer). A perfect generator scores the floor, not zero.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mudit.config.schema import EvaluateSection
from mudit.errors import ConfigError
from mudit.evaluate.extractor_stage import RealFeatures
from mudit.evaluate.frechet import Moments, Reference, leave_group_out
from mudit.evaluate.intervals import jackknife, wilson
from mudit.evaluate.metrics import KID_SEED, distribution_metrics, kernel_distance

DISTRIBUTION_METRICS = ("frechet_distance", "kernel_distance", "precision", "recall")
ACCURACY = "conditional_accuracy"
JACKKNIFE_GROUPS = 20

Record = dict[str, Any]


def unusable_records(names: list[str], reason: str, count: int) -> list[Record]:
    """Records without a value, and why."""
    return [{"metric": name, "value": None, "reason": reason, "n": count} for name in names]


def distribution_records(features_ND: Tensor, real: dict[str, RealFeatures], section: EvaluateSection) -> list[Record]:
    """One record per name in `DISTRIBUTION_METRICS`. Raises ConfigError if the settings ask for more images than there are."""
    reference_ND, held_out_ND = real["train"].features_ND, real["validation"].features_ND
    matched = min(len(features_ND), len(held_out_ND))
    whole = distribution_metrics(features_ND, reference_ND, section)
    prefix = whole if matched == len(features_ND) else distribution_metrics(features_ND[:matched], reference_ND, section)
    floor = distribution_metrics(held_out_ND[:matched], reference_ND, section)
    details = {
        "frechet_distance": _frechet_details(whole["frechet_distance"], features_ND, reference_ND),
        "kernel_distance": _kernel_details(whole["kernel_distance_std"], section),
        "precision": _share_details(whole["precision"], len(features_ND), "generated images"),
        "recall": _share_details(whole["recall"], len(reference_ND), "reference images"),
    }
    return [
        {
            "metric": name,
            "value": whole[name],
            "n": len(features_ND),
            "matched": {"n": matched, "value": prefix[name], "floor": floor[name]},
            **details[name],
        }
        for name in DISTRIBUTION_METRICS
    ]


def class_metric(class_name: str) -> str:
    """Name of the metric that compares the images of one class."""
    return f"kernel_distance/{class_name}"


def class_records(
    features_ND: Tensor, labels_N: Tensor, real: dict[str, RealFeatures], class_names: list[str], section: EvaluateSection
) -> list[Record]:
    """The kernel distance of each class to the training images of that class; no value for a class that a set has no images of.

    Raises ConfigError, naming the class, if a subset asks for more images than there are.
    """
    records: list[Record] = []
    for label, name in enumerate(class_names):
        generated_ND = features_ND[labels_N == label]
        reference_ND, held_out_ND = real["train"].of_class(label), real["validation"].of_class(label)
        fewest = min(len(generated_ND), len(reference_ND), len(held_out_ND))
        if fewest == 0:
            records += unusable_records([class_metric(name)], "a class without generated, held-out or training images", 0)
            continue
        if section.kid_subset_size > fewest:
            raise ConfigError(
                f"evaluate.kid_subset_size {section.kid_subset_size}: class {name} has {len(generated_ND)} generated, "
                f"{len(held_out_ND)} held-out and {len(reference_ND)} training images; lower it, or sample more"
            )
        matched = min(len(generated_ND), len(held_out_ND))
        value, std = kernel_distance(generated_ND, reference_ND, section)
        prefix = value if matched == len(generated_ND) else kernel_distance(generated_ND[:matched], reference_ND, section)[0]
        floor = kernel_distance(held_out_ND[:matched], reference_ND, section)[0]
        records.append(
            {
                "metric": class_metric(name),
                "class": name,
                "value": value,
                "n": len(generated_ND),
                "matched": {"n": matched, "value": prefix, "floor": floor},
                **_kernel_details(std, section),
            }
        )
    return records


def accuracy_record(logits_NK: Tensor | None, labels_N: Tensor, held_out: int, identity: dict[str, Any]) -> Record:
    """Share of generated images that the classifier assigns to the class asked for; the floor is its share on held-out ones."""
    if logits_NK is None:
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


def _frechet_details(value: float, features_ND: Tensor, reference_ND: Tensor) -> Record:
    """Interval, and the distance again from symmetric eigenvalues in float64: the two differ visibly if either went wrong."""
    reference = Reference(Moments.of(reference_ND.numpy()))
    return {
        "interval": jackknife(value, leave_group_out(features_ND.numpy(), reference, JACKKNIFE_GROUPS)),
        "interval_method": f"delete-a-group jackknife over generated images, {JACKKNIFE_GROUPS} groups, reference fixed",
        "second_opinion": reference.distance(features_ND.numpy()),
    }


def _kernel_details(std: float, section: EvaluateSection) -> Record:
    return {"std": std, "std_of": f"{section.kid_subsets} subsets of {section.kid_subset_size} images, seed {KID_SEED}"}


def _share_details(value: float, count: int, over: str) -> Record:
    hits = round(value * count)  # torch-fidelity's shares are float32
    return {"value": hits / count, "interval": wilson(hits, count), "interval_method": f"Wilson, over {over}"}
