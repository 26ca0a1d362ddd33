"""Metric records of images generated from captions: the CLIP-like score and the compositional check.

Each stands between what needs no skill (another image's caption, or guessing) and a ceiling: what the same scorer makes of the real
held-out images behind the same captions. A perfect generator reaches the ceiling, not 100.

Shapes: N images, V held-out captions, U of them that were used, S common space.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mudit.errors import ConfigError
from mudit.evaluate.composition import COMPOSITION_METRICS, Composition
from mudit.evaluate.intervals import RESAMPLES, bootstrap
from mudit.evaluate.records import Record
from mudit.evaluate.scorer import HeldOut, Seen

SCORE = "clip_like_score"
TEXT_METRICS = (SCORE, *COMPOSITION_METRICS)

_WHAT = {
    SCORE: "100 x mean cosine of images and their own captions",
    "style_accuracy": "images whose class, by a probe, is the caption's",
    "subject_accuracy": "images that fit their own caption better than any other candidate of its class",
    "composition_accuracy": "images for which both hold",
}


def text_records(seen: Seen, own_N: Tensor, reference: HeldOut, composition: Composition, seed: int) -> list[Record]:
    """One record per name in `TEXT_METRICS`. own_N: int64, the place among the held-out captions that each image was made for.

    Raises ConfigError if there are too few images for an interval.
    """
    if len(own_N) < 2:
        raise ConfigError(f"sample.images {len(own_N)}: the CLIP-like score needs two or more; raise it")
    used_U = own_N.unique()
    real = Seen(
        reference.seen.embeddings_NS[used_U], None if reference.seen.classes_N is None else reference.seen.classes_N[used_U]
    )
    shares = composition.shares(seen, own_N, reference.captions_NS)
    ceilings = composition.shares(real, used_U, reference.captions_NS)
    ceiling = real.embeddings_NS, reference.captions_NS[used_U]
    records = [score_record(SCORE, seen.embeddings_NS, own_N, reference.captions_NS, composition.ids_V, ceiling, seed)]
    for name in COMPOSITION_METRICS:
        found = shares[name]
        if found is None:
            records.append({"metric": name, "value": None, "reason": "the data set has one class", "n": len(own_N)})
        else:
            details = {"interval_method": "Wilson, over generated images", "ceiling": ceilings[name], "what": _WHAT[name]}
            records.append({"metric": name, **found, **details, "candidates": composition.rivals_VM.shape[1] + 1})
    return records


def score_record(
    metric: str, images_NS: Tensor, own_N: Tensor, captions_VS: Tensor, ids_V: Tensor, real: tuple[Tensor, Tensor], seed: int
) -> Record:
    """The score, its floor with other captions that were used, and its ceiling. Embeddings have rows of length one.

    own_N: the caption of each image; ids_V: captions with the same text have the same number; real: embeddings of real images and
    of their captions.
    """
    others_U = ids_V[own_N].unique()  # places of the different captions among those used
    floor = None
    if len(others_U) > 1:
        # Mean over all other captions: what shuffling them gives on average, without a draw.
        total_S = captions_VS[others_U].sum(dim=0)
        wrong_NS = (total_S - captions_VS[own_N]) / (len(others_U) - 1)
        floor = _mean(images_NS, wrong_NS, seed)
    return {
        "metric": metric,
        **_mean(images_NS, captions_VS[own_N], seed),
        "interval_method": f"percentile bootstrap over images, {RESAMPLES} resamples",
        "floor": floor,
        "floor_is": "generated images with the other captions",
        "ceiling": _mean(*real, seed),
        "ceiling_is": "real images with their own captions",
        "what": _WHAT[SCORE],
    }


def _mean(images_NS: Tensor, captions_NS: Tensor, seed: int) -> dict[str, Any]:
    score_N = 100 * (images_NS.double() * captions_NS.double()).sum(dim=1)
    return {"value": score_N.mean().item(), "interval": bootstrap(score_N.numpy(), seed), "n": len(score_N)}
