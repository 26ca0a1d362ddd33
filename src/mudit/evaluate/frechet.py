"""Fréchet distances in float64: moments that add up piece by piece, and our own distance beside torch-fidelity's.

Means and scatters of disjoint sets merge exactly (Chan, Golub & LeVeque 1979), so a reference of a million images is one pass over
them without their features in memory, and leaving out a group of images is a subtraction.

Shapes: N images, D features.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mudit.evaluate.threads import one_thread

EXACT_DIMENSIONS = 512  # up to here each group that is left out has its own eigendecomposition
FIRST_ORDER_IMAGES = 10  # per dimension, from which the distances without a group are taken to first order
_ROWS = 4096  # images that are float64 at a time
_SINGULAR = 1e-12  # of the largest eigenvalue: what is smaller is rounding


class Gaussian(NamedTuple):
    """Mean [D] and covariance [D, D], float64: all that a Fréchet distance knows of a set of images."""

    mean_D: NDArray[np.float64]
    covariance_DD: NDArray[np.float64]

    @classmethod
    def of(cls, features_ND: NDArray[np.floating]) -> Gaussian:
        """Of features [N, D]; the covariance is divided by n - 1, as published figures do."""
        return Moments.of(features_ND).gaussian


class Moments(NamedTuple):
    """Of features, float64: number of images, mean [D], and scatter [D, D], the sum of outer products of deviations from it."""

    images: int
    mean_D: NDArray[np.float64]
    scatter_DD: NDArray[np.float64]

    @classmethod
    def of(cls, features_ND: NDArray[np.floating]) -> Moments:
        """Of features [N, D] of any float type, on one thread: sums that are split over threads round differently."""
        with one_thread():
            return merged(_moments(features_ND[start : start + _ROWS]) for start in range(0, len(features_ND), _ROWS))

    def without(self, part: Moments) -> Moments:
        """Of the images that are not in `part`, which is a part of these."""
        count = self.images - part.images
        mean_D = (self.images * self.mean_D - part.images * part.mean_D) / count
        shift_D = part.mean_D - mean_D
        weight = count * part.images / self.images
        return Moments(count, mean_D, self.scatter_DD - part.scatter_DD - weight * np.outer(shift_D, shift_D))

    @property
    def gaussian(self) -> Gaussian:
        """The Gaussian with these moments."""
        return Gaussian(self.mean_D, self.scatter_DD / (self.images - 1))


def merged(parts: Iterable[Moments]) -> Moments:
    """Of the union of disjoint sets, one after another: the same parts in the same order give the same bits."""
    parts = iter(parts)
    count, mean_D, scatter_DD = next(parts)
    scatter_DD = scatter_DD.copy()
    for part in parts:
        total = count + part.images
        shift_D = part.mean_D - mean_D
        scatter_DD += part.scatter_DD
        scatter_DD += (count * part.images / total) * np.outer(shift_D, shift_D)
        mean_D = mean_D + shift_D * (part.images / total)
        count = total
    return Moments(count, mean_D, scatter_DD)


class Reference:
    """Distances to one fixed Gaussian. Its matrix square root is computed once."""

    def __init__(self, gaussian: Gaussian) -> None:
        self.gaussian = gaussian

    def distance(self, features_ND: NDArray[np.floating]) -> float:
        """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017), S1 being the reference's.

        The trace of the root is taken from a symmetric product with the eigenvalues of S1 S2, which are real and not negative by
        construction, also when a covariance is singular: R S2 R with R^2 = S1, or, for fewer images than features, X S1 X' with
        S2 = X' X, which is smaller.
        """
        if len(features_ND) >= features_ND.shape[1]:
            return self.distance_to(Gaussian.of(features_ND))
        features_ND = features_ND.astype(np.float64)
        mean_D = features_ND.mean(axis=0)
        centred_ND = (features_ND - mean_D) / np.sqrt(len(features_ND) - 1)
        return self._distance(mean_D, (centred_ND**2).sum(), centred_ND @ self.gaussian.covariance_DD @ centred_ND.T)

    def distance_to(self, other: Gaussian) -> float:
        """The same between Gaussians."""
        return self._distance(other.mean_D, np.trace(other.covariance_DD), self._root @ other.covariance_DD @ self._root)

    def expansion(self, about: Gaussian, near: Iterable[Gaussian]) -> tuple[float, list[float]]:
        """The distance to one Gaussian, and those to others near it to first order, for the price of one eigendecomposition.

        With R S2 R = V L V' and A = R V, the trace of the root changes by tr(A L^(-1/2) A' dS2) / 2, so the distance by
        tr((1 - A L^(-1/2) A') dS2) beside what the mean does. Directions in which either covariance is singular change nothing.
        """
        values_D, vectors_DD = np.linalg.eigh(self._root @ about.covariance_DD @ self._root)
        turned_DD = self._root @ vectors_DD
        inverse_D = np.where(values_D > _SINGULAR * values_D.max(), 1 / np.sqrt(values_D.clip(min=np.finfo(float).tiny)), 0.0)
        slope_DD = np.eye(len(values_D)) - (turned_DD * inverse_D) @ turned_DD.T
        shift_D = about.mean_D - self.gaussian.mean_D
        traces = np.trace(about.covariance_DD) + np.trace(self.gaussian.covariance_DD)
        distance = float(shift_D @ shift_D + traces - 2 * np.sqrt(values_D.clip(min=0)).sum())
        moved = []
        for each in near:
            other_D = each.mean_D - self.gaussian.mean_D
            change = np.vdot(slope_DD, each.covariance_DD - about.covariance_DD)
            moved.append(float(distance + other_D @ other_D - shift_D @ shift_D + change))
        return distance, moved

    def _distance(self, mean_D: NDArray[np.float64], trace: float, product: NDArray[np.float64]) -> float:
        root_trace = np.sqrt(np.linalg.eigvalsh(product).clip(min=0)).sum()
        shift_D = mean_D - self.gaussian.mean_D
        return float(shift_D @ shift_D + trace + np.trace(self.gaussian.covariance_DD) - 2 * root_trace)

    @cached_property
    def _root(self) -> NDArray[np.float64]:
        values_D, vectors_DD = np.linalg.eigh(self.gaussian.covariance_DD)
        root_DD: NDArray[np.float64] = (vectors_DD * np.sqrt(values_D.clip(min=0))) @ vectors_DD.T
        return root_DD


class Estimate(NamedTuple):
    """A set's Gaussian, its distance to a reference, and what the distance is with each of some groups of images left out."""

    gaussian: Gaussian
    distance: float
    without_group: list[float]
    first_order: bool  # whether the latter are approximations (`Reference.expansion`)


def estimate(features_ND: NDArray[np.floating], reference: Reference, groups: int) -> Estimate:
    """Of features [N, D], with blocks of images left out; labels take turns, so blocks are balanced over classes.

    An eigendecomposition per group takes minutes at 2,048 dimensions. Above `EXACT_DIMENSIONS`, and with so many images that
    the difference does not show (`FIRST_ORDER_IMAGES` per dimension), one serves all groups.
    """
    count, dims = features_ND.shape
    largest = -(-count // groups)
    if dims <= EXACT_DIMENSIONS or count - largest < dims:
        without = leave_group_out(features_ND, reference, groups)
        return Estimate(Gaussian.of(features_ND), reference.distance(features_ND), without, first_order=False)
    parts = [Moments.of(block_nD) for block_nD in np.array_split(features_ND, groups)]
    whole = merged(parts)
    rest = (whole.without(part).gaussian for part in parts)
    if count < FIRST_ORDER_IMAGES * dims:
        distance, without = reference.distance_to(whole.gaussian), [reference.distance_to(each) for each in rest]
        return Estimate(whole.gaussian, distance, without, first_order=False)
    return Estimate(whole.gaussian, *reference.expansion(whole.gaussian, rest), first_order=True)


def leave_group_out(features_ND: NDArray[np.floating], reference: Reference, groups: int) -> list[float]:
    """Distances with each of `groups` blocks of images left out, none of them approximate."""
    blocks = np.array_split(np.arange(len(features_ND)), groups)
    if len(features_ND) - len(blocks[0]) < features_ND.shape[1]:
        return [reference.distance(np.delete(features_ND, block, axis=0)) for block in blocks]
    parts = [Moments.of(features_ND[block]) for block in blocks]
    whole = merged(parts)
    return [reference.distance_to(whole.without(part).gaussian) for part in parts]


def _moments(features_ND: NDArray[np.floating]) -> Moments:
    features_ND = features_ND.astype(np.float64)
    mean_D = features_ND.mean(axis=0)
    centred_ND = features_ND - mean_D
    return Moments(len(features_ND), mean_D, centred_ND.T @ centred_ND)
