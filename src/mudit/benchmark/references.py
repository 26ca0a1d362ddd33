"""Reference images of a prompt set, by name, from a folder, a .zip or a plain .tar, cropped as the training images are.

Shapes: C channels, H W height and width.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mudit.data.images import IMAGE_SUFFIXES, UnreadableImageError, read_image
from mudit.data.tars import open_index
from mudit.errors import DataError
from mudit.zips import ZIP_ERRORS

Read = Callable[[str], NDArray[np.float32]]

_ENCRYPTED = 1  # bit of a member's flags


def open_references(path: Path, size: int, where: str) -> Read:
    """What reads an image by its name as float32 [3, size, size] in [-1, 1], raising UnreadableImageError if it cannot.

    In a folder an image lies under its whole name. In an archive it is the one that ends in that name or, whatever folders there
    are, the one with its last part (folders inside a tar are not known); two of those are an UnreadableImageError.

    Raises DataError, which names the setting `where`, if there is no such folder or archive, or it is encrypted.
    """
    if path.is_dir():
        return lambda name: read_image(path / name, size)
    if not path.is_file():
        raise DataError(f"{where} {path}: no such folder or archive; put the images there or change the path")
    if path.suffix == ".zip":
        return _zipped(path, size, where)
    if path.suffix == ".tar":
        return _tarred(path, size)
    raise DataError(f"{where} {path}: images come as a folder, a .zip or a plain .tar")


def _zipped(path: Path, size: int, where: str) -> Read:
    try:
        archive = zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise DataError(f"{where} {path}: not a .zip, or cut short ({error}); fetch it again") from error
    images = [name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    if locked := next((name for name in images if archive.getinfo(name).flag_bits & _ENCRYPTED), None):
        raise DataError(f"{where} {path}: {locked} is encrypted; unpack it with its password and name the folder")

    places = _by_last_part(images)

    def read(name: str) -> NDArray[np.float32]:
        member = images[_find(places, name)]
        try:
            content = archive.read(member)
        except ZIP_ERRORS as error:
            raise UnreadableImageError(f"{member}: {error}") from error
        return read_image(io.BytesIO(content), size)

    return read


def _tarred(path: Path, size: int) -> Read:
    index = open_index([path], IMAGE_SUFFIXES)
    places = _by_last_part(index.names)
    return lambda name: read_image(io.BytesIO(index.read(_find(places, name))), size)


def _by_last_part(names: Sequence[str]) -> dict[str, list[tuple[PurePosixPath, int]]]:
    """Paths and numbers of the members that have a last part."""
    places: dict[str, list[tuple[PurePosixPath, int]]] = {}
    for number, name in enumerate(names):
        path = PurePosixPath(name)
        places.setdefault(path.name, []).append((path, number))
    return places


def _find(places: dict[str, list[tuple[PurePosixPath, int]]], name: str) -> int:
    """Number of the member that a name means."""
    asked = PurePosixPath(name)
    found = places.get(asked.name, [])
    if len(found) > 1:
        found = [(path, number) for path, number in found if path.parts[-len(asked.parts) :] == asked.parts] or found
    if len(found) > 1:
        raise UnreadableImageError(f"{name} may be any of {len(found)} images of the archive; unpack it and name the folder")
    if not found:
        raise UnreadableImageError(f"{name} is not in the archive")
    return found[0][1]
