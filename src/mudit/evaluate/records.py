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

import torch
from torch import Tensor

from mudit.config.schema import EvaluateSection
from mudit.evaluate.extractors import Extractor
from mudit.evaluate.frechet import Moments, Reference, leave_group_out
from mudit.evaluate.intervals import jackknife, wilson
from mudit.evaluate.metrics import KID_SEED, distribution_metrics
from mudit.evaluate.samples import Samples

METRICS = ("frechet_distance", "kernel_distance", "precision", "recall", "conditional_accuracy")
JACKKNIFE_GROUPS = 20
_BATCH = 250  # images embedded at a time

Record = dict[str, Any]


def image_records(
    samples: Samples, extractor: Extractor, real: dict[str, Tensor], identity: dict[str, Any], section: EvaluateSection
) -> list[Record]:
    """One record per name in `METRICS`.

    real: features [N, D] of the splits `train` and `validation`; identity: the extractor's. A metric that cannot be stated has the
    value None and a reason. Raises ConfigError if the settings ask for more images than there are.
    """
    bad = int((~samples.finite_N).sum())
    if bad:
        reason = f"{bad} of {len(samples.finite_N)} generated images are not finite"
        return [{"metric": name, "value": None, "reason": reason, "n": len(samples.finite_N)} for name in METRICS]
    features_ND, logits_NK = extractor.features(torch.split(samples.images_NCHW, _BATCH))
    reference_ND, held_out_ND = real["train"], real["validation"]
    matched = min(len(features_ND), len(held_out_ND))
    whole = distribution_metrics(features_ND, reference_ND, section)
    prefix = distribution_metrics(features_ND[:matched], reference_ND, section)
    floor = distribution_metrics(held_out_ND[:matched], reference_ND, section)
    details = {
        "frechet_distance": _frechet_details(whole["frechet_distance"], features_ND, reference_ND),
        "kernel_distance": {
            "std": whole["kernel_distance_std"],
            "std_of": f"{section.kid_subsets} subsets of {section.kid_subset_size} images, seed {KID_SEED}",
        },
        "precision": _share_details(whole["precision"], len(features_ND), "generated images"),
        "recall": _share_details(whole["recall"], len(reference_ND), "reference images"),
    }
    records: list[Record] = [
        {
            "metric": name,
            "value": whole[name],
            "n": len(features_ND),
            "matched": {"n": matched, "value": prefix[name], "floor": floor[name]},
            **detail,
        }
        for name, detail in details.items()
    ]
    return [*records, _accuracy_record(logits_NK, samples.labels_N, matched, identity)]


def _frechet_details(value: float, features_ND: Tensor, reference_ND: Tensor) -> Record:
    """Interval, and the distance again from symmetric eigenvalues in float64: the two differ visibly if either went wrong."""
    reference = Reference(Moments.of(reference_ND.numpy()))
    return {
        "interval": jackknife(value, leave_group_out(features_ND.numpy(), reference, JACKKNIFE_GROUPS)),
        "interval_method": f"delete-a-group jackknife over generated images, {JACKKNIFE_GROUPS} groups, reference fixed",
        "second_opinion": reference.distance(Moments.of(features_ND.numpy())),
    }


def _share_details(value: float, count: int, over: str) -> Record:
    hits = round(value * count)  # torch-fidelity's shares are float32
    return {"value": hits / count, "interval": wilson(hits, count), "interval_method": f"Wilson, over {over}"}


def _accuracy_record(logits_NK: Tensor | None, labels_N: Tensor, matched: int, identity: dict[str, Any]) -> Record:
    """Share of generated images that the classifier assigns to the class asked for; the floor is its share on held-out ones."""
    record = {"metric": "conditional_accuracy", "n": len(labels_N)}
    if logits_NK is None:
        return {**record, "value": None, "reason": f"{identity['name']} does not know the classes of this data set"}
    correct_N = (logits_NK.argmax(dim=1) == labels_N).float()
    value = correct_N.mean().item()
    return {
        **record,
        "matched": {"n": matched, "value": correct_N[:matched].mean().item(), "floor": identity["accuracy"]["validation"]["value"]},
        **_share_details(value, len(labels_N), "generated images"),
    }
