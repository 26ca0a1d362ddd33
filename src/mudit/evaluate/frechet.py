"""Our own Fréchet distance in float64: a second opinion on torch-fidelity's, and cheap enough to repeat for the interval.

Shapes: N images, D features.
"""

from __future__ import annotations

from functools import cached_property
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
    """Distances to one fixed Gaussian."""

    def __init__(self, moments: Moments) -> None:
        self._moments = moments

    def distance(self, features_ND: NDArray[np.floating]) -> float:
        """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017), S1 being the reference's.

        The trace of the root is taken from a symmetric product with the eigenvalues of S1 S2, which are real and not negative by
        construction, also when a covariance is singular: R S2 R with R^2 = S1, or, for fewer images than features, X S1 X' with
        S2 = X' X, which is smaller.
        """
        features_ND = features_ND.astype(np.float64)
        mean_D = features_ND.mean(axis=0)
        centred_ND = (features_ND - mean_D) / np.sqrt(len(features_ND) - 1)
        if len(features_ND) < features_ND.shape[1]:
            product = centred_ND @ self._moments.covariance_DD @ centred_ND.T
        else:
            product = self._root @ (centred_ND.T @ centred_ND) @ self._root
        root_trace = np.sqrt(np.linalg.eigvalsh(product).clip(min=0)).sum()
        shift_D = mean_D - self._moments.mean_D
        return float(shift_D @ shift_D + (centred_ND**2).sum() + np.trace(self._moments.covariance_DD) - 2 * root_trace)

    @cached_property
    def _root(self) -> NDArray[np.float64]:
        values_D, vectors_DD = np.linalg.eigh(self._moments.covariance_DD)
        root_DD: NDArray[np.float64] = (vectors_DD * np.sqrt(values_D.clip(min=0))) @ vectors_DD.T
        return root_DD


def leave_group_out(features_ND: NDArray[np.floating], reference: Reference, groups: int) -> list[float]:
    """Distances with each of `groups` blocks of images left out; labels take turns, so blocks are balanced over classes."""
    blocks = np.array_split(np.arange(len(features_ND)), groups)
    return [reference.distance(np.delete(features_ND, block, axis=0)) for block in blocks]
