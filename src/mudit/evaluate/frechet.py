"""Our own Fréchet distance in float64: a second opinion on torch-fidelity's, and cheap enough to repeat for the interval.

Shapes: N images, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Moments(NamedTuple):
    """Mean [D] and covariance [D, D] (divided by n - 1) of features, float64."""

    mean_D: NDArray[np.float64]
    covariance_DD: NDArray[np.float64]

    @classmethod
    def of(cls, features_ND: NDArray[np.floating]) -> Moments:
        features_ND = features_ND.astype(np.float64)
        return cls(features_ND.mean(axis=0), np.cov(features_ND, rowvar=False))


class Reference:
    """Distances to one fixed Gaussian, whose matrix root is taken once."""

    def __init__(self, moments: Moments) -> None:
        values_D, vectors_DD = np.linalg.eigh(moments.covariance_DD)
        self._moments = moments
        self._root_DD = (vectors_DD * np.sqrt(values_D.clip(min=0))) @ vectors_DD.T

    def distance(self, other: Moments) -> float:
        """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017).

        The trace of the root is taken from the symmetric product R S R with R^2 the reference's covariance: it has the eigenvalues
        of S1 S2, but they are real and not negative by construction, also when a covariance is singular.
        """
        shift_D = other.mean_D - self._moments.mean_D
        product_DD = self._root_DD @ other.covariance_DD @ self._root_DD
        root_trace = np.sqrt(np.linalg.eigvalsh(product_DD).clip(min=0)).sum()
        return float(shift_D @ shift_D + np.trace(other.covariance_DD) + np.trace(self._moments.covariance_DD) - 2 * root_trace)


def leave_group_out(features_ND: NDArray[np.floating], reference: Reference, groups: int) -> list[float]:
    """Distances with each of `groups` blocks of images left out; labels take turns, so blocks are balanced over classes."""
    blocks = np.array_split(np.arange(len(features_ND)), groups)
    return [reference.distance(Moments.of(np.delete(features_ND, block, axis=0))) for block in blocks]
