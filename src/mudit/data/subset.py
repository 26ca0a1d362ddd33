"""A seeded share of a source: the same images whatever the order of its files, smaller shares inside larger ones.

Shapes: n images of the source, k of the share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mudit.data.names import ChosenNames
from mudit.data.sources import Source


class Subset(Source):
    """Some images of a source, in its order. Classes and subjects keep their numbers; no class is left without images."""

    def __init__(self, source: Source, share: float, seed: int) -> None:
        """share: above 0, at most 1, of each class; of whole subjects where the source has them."""
        self._source = source
        self._place_k = _chosen(source, share, seed)
        self.has_captions, self.unused_captions = source.has_captions, source.unused_captions
        self.unlisted_images = source.unlisted_images
        self.class_names, self.subject_names = source.class_names, source.subject_names
        self.labels_n = source.labels_n[self._place_k]
        self.subjects_n = None if source.subjects_n is None else source.subjects_n[self._place_k]
        self.names = ChosenNames(source.names, self._place_k)
        self.identity = source.identity | {"share": repr(share), "share_seed": seed, "chosen": len(self._place_k)}

    def read(self, index: int) -> NDArray[np.float32]:
        return self._source.read(int(self._place_k[index]))

    def caption(self, index: int) -> str:
        return self._source.caption(int(self._place_k[index]))

    def captionless(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(self._place_k, self._source.captionless()))


def _chosen(source: Source, share: float, seed: int) -> NDArray[np.int64]:
    """Places of the chosen images, ascending."""
    if source.subjects_n is not None:
        assert source.subject_names is not None
        subjects = _lowest(source.subject_names, np.zeros(len(source.subject_names), dtype=np.int64), share, seed)
        return np.flatnonzero(np.isin(source.subjects_n, subjects))
    return _lowest(source.names, source.labels_n, share, seed)


def _lowest(names: Sequence[str], classes_n: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """The share of each class whose names have the lowest digests under the seed, rounded up."""
    digest_n = np.fromiter((_digest(seed, name) for name in names), dtype=np.uint64, count=len(names))
    order_n = np.lexsort((digest_n, classes_n))
    counts = np.bincount(classes_n)
    rank_n = np.arange(len(order_n)) - np.repeat(np.cumsum(counts) - counts, counts)
    # 0.1 * 30 is above 3 in floating point, and must not take a fourth.
    quota = np.ceil(np.round(share * counts, 9))
    return np.sort(order_n[rank_n < np.repeat(quota, counts)])


def _digest(seed: int, name: str) -> int:
    key = seed.to_bytes(8, "little", signed=False)
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=key).digest(), "little")
