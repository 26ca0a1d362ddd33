"""Train and validation: which images are held out. Every split is a pure function of labels or subjects, count and seed.

Shapes: n images of the source.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mudit.errors import ConfigError, DataError
from mudit.random import permutation


def stratified_split(labels_n: NDArray[np.int64], held_out: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Image indices of `train` and `validation`, each in a seeded random order, validation with the class shares of the whole.

    Class quotas are rounded by largest remainder, so that exactly `held_out` images are held out. Raises DataError when that
    leaves nothing to train on.
    """
    total = len(labels_n)
    _check_leaves_some(total, held_out)
    order = permutation(seed, "split", 0, total).numpy()
    shares = np.bincount(labels_n) * held_out / total
    quotas = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(quotas - shares, kind="stable")
    quotas[by_remainder[: held_out - quotas.sum()]] += 1
    labels_in_order = labels_n[order]
    is_held_out = np.zeros(total, dtype=bool)
    for label, quota in enumerate(quotas):
        is_held_out[np.flatnonzero(labels_in_order == label)[:quota]] = True
    return {"train": order[~is_held_out], "validation": order[is_held_out]}


def subject_split(subjects_n: NDArray[np.int64], held_out: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """As `stratified_split`, but whole subjects are held out: no subject is in both splits. Subjects have equally many images.

    Raises ConfigError when `held_out` images are not whole subjects, DataError when nothing is left to train on.
    """
    sizes = np.bincount(subjects_n)
    per_subject = int(sizes[0])
    assert (sizes == per_subject).all(), "subjects with different numbers of images"
    total = len(subjects_n)
    _check_leaves_some(total, held_out)
    if held_out % per_subject:
        raise ConfigError(
            f"data.validation_images {held_out}: subjects are held out whole, {per_subject} images each; "
            f"set it to {held_out - held_out % per_subject} or {held_out - held_out % per_subject + per_subject}"
        )
    chosen = permutation(seed, "split-subjects", 0, len(sizes)).numpy()[: held_out // per_subject]
    order = permutation(seed, "split", 0, total).numpy()
    is_held_out = np.isin(subjects_n[order], chosen)
    return {"train": order[~is_held_out], "validation": order[is_held_out]}


def _check_leaves_some(total: int, held_out: int) -> None:
    if held_out >= total:
        raise DataError(f"data.validation_images {held_out}: the source has {total} images; hold out fewer")
