"""The ADM evaluator's figures in plain NumPy, written from its formulas (Dhariwal & Nichol 2021): an oracle for ours.

Activations are those of one layer, [N, D]; for the spatial distance the flattened map, rows, columns, then channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm

Activations = NDArray[np.floating]


def frechet_distance(generated_ND: Activations, real_ND: Activations) -> float:
    """Of the two sample means and covariances, with SciPy's matrix square root."""
    means, covariances = zip(
        *((each.astype(np.float64).mean(axis=0), np.cov(each.astype(np.float64).T)) for each in (generated_ND, real_ND)),
        strict=True,
    )
    root_DD = sqrtm(covariances[0] @ covariances[1]).real
    return float(np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root_DD))


def spatial_activations(map_NHWC: NDArray[np.floating]) -> Activations:
    """The first seven channels of TensorFlow's map, channels last, flattened."""
    return np.stack([image_HWC[:, :, :7].reshape(-1) for image_HWC in map_NHWC])


def inception_score(pooled_ND: Activations, weights_DK: Activations, images_per_split: int) -> float:
    """Mean over splits, in order, of exp(mean KL(p(y|x) || p(y)))."""
    logits_NK = pooled_ND.astype(np.float64) @ weights_DK.astype(np.float64)
    odds_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    p_NK = odds_NK / odds_NK.sum(axis=1, keepdims=True)
    scores = []
    for start in range(0, len(p_NK), images_per_split):
        part = p_NK[start : start + images_per_split]
        scores.append(np.exp(np.mean(np.sum(part * (np.log(part) - np.log(part.mean(axis=0))), axis=1))))
    return float(np.mean(scores))


def precision_recall(generated_ND: Activations, real_ND: Activations, k: int) -> tuple[float, float]:
    """Share of each set inside the other's manifold: balls around points up to the k-th neighbour, the point itself left out."""

    def distances(first: Activations, second: Activations) -> NDArray[np.floating]:
        return np.linalg.norm(first[:, None].astype(np.float64) - second[None].astype(np.float64), axis=2)

    def inside(points: Activations, others: Activations) -> float:
        own = distances(others, others)
        np.fill_diagonal(own, np.inf)
        return float((distances(points, others) <= np.sort(own, axis=1)[:, k - 1]).any(axis=1).mean())

    return inside(generated_ND, real_ND), inside(real_ND, generated_ND)
