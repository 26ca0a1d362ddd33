"""A published reference: `VIRTUAL_imagenet256_labeled.npz` of the ADM evaluator, or another file of that layout.

The archive holds `arr_0`, some real images uint8 [N, H, W, 3] (10,000, for precision and recall), and statistics of many more (all
training images): `mu`, `sigma` of the pooled features and `mu_s`, `sigma_s` of the spatial ones. The images are 2 GB; they are read
a batch at a time from inside the archive.

Shapes: N images, B batch, C channels, H W height and width, D features.
"""

from __future__ import annotations

import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mudit.errors import DataError
from mudit.evaluate.frechet import Gaussian
from mudit.files import sha256_file
from mudit.zips import ZIP_ERRORS

IMAGES = "arr_0"
_STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
_BATCH = 250  # images read at a time
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGED = (*ZIP_ERRORS, LookupError, MemoryError, SyntaxError, tokenize.TokenError)  # from LookupError on: of numpy's headers
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class ReferenceFile:
    """An open file. Raises DataError, one line, on what is missing, cut short, or of another layout or content."""

    def __init__(self, path: Path, sha256: str | None) -> None:
        """sha256: what the file must be; None: anything of the layout."""
        if not path.is_file():
            raise DataError(f"evaluate.reference.path: {path} is missing; put the reference there, or use {{kind: data}}")
        self.path, self.sha256 = path, sha256_file(path)
        if sha256 not in (None, self.sha256):
            raise DataError(
                f"evaluate.reference.sha256: {path} has {self.sha256}; take the file that was meant, or change the value"
            )
        statistics = self._statistics()
        self.gaussian, self.spatial = (self._gaussian(statistics, mean, cov) for mean, cov in (_STATISTICS[:2], _STATISTICS[2:]))
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{IMAGES}.npy") as file:
                self._shape, self._start = _image_layout(file)
        except _DAMAGED as error:
            raise self._damaged(f"{IMAGES}: {error}") from error

    @property
    def count(self) -> int:
        """Images."""
        return self._shape[0]

    def batches(self, numbers: range) -> Iterator[Tensor]:
        """Some images in order, uint8 [B, 3, H, W]."""
        row = self._shape[1:]
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{IMAGES}.npy") as file:
                file.seek(self._start + numbers.start * int(np.prod(row)))
                for first in range(numbers.start, numbers.stop, _BATCH):
                    count = min(_BATCH, numbers.stop - first)
                    content = file.read(count * int(np.prod(row)))
                    images_BHWC = np.frombuffer(content, dtype=np.uint8).reshape(count, *row)
                    yield torch.from_numpy(images_BHWC.transpose(0, 3, 1, 2).copy())
        except _DAMAGED as error:
            raise self._damaged(f"{IMAGES}: {error}") from error

    def _statistics(self) -> dict[str, NDArray[np.float64]]:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                missing = [name for name in (IMAGES, *_STATISTICS) if name not in archive.files]
                if missing:
                    raise self._damaged(f"has no {', '.join(missing)}")
                return {name: self._float64(name, archive[name]) for name in _STATISTICS}
        except (*_DAMAGED, AttributeError, TypeError) as error:  # the last two: an array of its own, no archive
            if isinstance(error, DataError):
                raise
            raise self._damaged(str(error)) from error

    def _float64(self, name: str, array: NDArray[Any]) -> NDArray[np.float64]:
        """The published file has means in float32 and covariances in float64; half precision would round distances."""
        if array.dtype not in _FLOATS:
            raise self._damaged(f"{name} is of the type {array.dtype}; float32 or float64 was expected")
        return array.astype(np.float64)

    def _gaussian(self, statistics: dict[str, NDArray[np.float64]], mean: str, covariance: str) -> Gaussian:
        mean_D, covariance_DD = statistics[mean], statistics[covariance]
        if mean_D.ndim != 1 or not len(mean_D) or covariance_DD.shape != (len(mean_D), len(mean_D)):
            raise self._damaged(f"{mean} {list(mean_D.shape)} and {covariance} {list(covariance_DD.shape)} do not fit")
        if not (np.isfinite(mean_D).all() and np.isfinite(covariance_DD).all()):
            raise self._damaged(f"{mean} or {covariance} has values that are not finite")
        if why := _no_covariance(covariance_DD):
            raise self._damaged(f"{covariance} is no covariance: {why}")
        return Gaussian(mean_D, covariance_DD)

    def _damaged(self, what: str) -> DataError:
        first = next(iter(what.splitlines()), "cut short")  # numpy has paragraphs of advice; EOFError may say nothing
        return DataError(f"{self.path}: not a reference of the ADM evaluator, or damaged ({first}); fetch it again")


def _no_covariance(matrix_DD: NDArray[np.float64]) -> str | None:
    """Why a matrix cannot be one; None if it can.

    Rounding makes a covariance a little asymmetric, and that of fewer images than features a little indefinite. Float32 products of
    D terms, relative to the largest, are the most that it may come to: whatever type a file has, float32 may have been before it.
    """
    rounding = len(matrix_DD) * float(np.finfo(np.float32).eps)
    uneven, largest = np.abs(matrix_DD - matrix_DD.T).max(), np.abs(matrix_DD).max()
    if uneven > rounding * largest:
        return f"it is not symmetric, entries that should be equal differ by {uneven:.3g}"
    values_D = np.linalg.eigvalsh(matrix_DD)
    if values_D[-1] <= 0 or values_D[0] < -rounding * values_D[-1]:
        return f"its eigenvalues are {values_D[0]:.3g} to {values_D[-1]:.3g}"
    return None


def _image_layout(file: IO[bytes]) -> tuple[tuple[int, ...], int]:
    """Shape of the images and where they begin in the member. Raises ValueError."""
    version: Any = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"format {version} of numpy")
    shape, fortran, dtype = _HEADERS[version](file)
    if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8 or fortran or shape[0] == 0:
        raise ValueError(f"{dtype} {list(shape)}; uint8 [N, H, W, 3] was expected")
    return shape, file.tell()
