"""Captioned emoji in several drawing styles: every subject is drawn in each style, so style and subject are known factors.

Images are Noto's and Fluent 3D's, names those of Unicode CLDR; `mudit fetch emoji` gets them. The class of an image is its style.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mudit.config.data import EmojiSource
from mudit.data.images import read_image
from mudit.data.sources import Source
from mudit.errors import ConfigError
from mudit.packages import EMOJIBASE, FLUENT_3D, NOTO, Package, fetched

_PARTS = (None, 2)  # groups of emojibase: regional letters have none; 2 is skin tones and hair
# Subgroups of emojibase: flags of countries and of their subdivisions. The 3D package has Noto's drawings of these, so that their
# captions would name a style that the image is not in.
_COUNTRY_FLAGS = (98, 99)

StyleName = Literal["noto", "fluent-3d"]


class Style(NamedTuple):
    """A set of drawings."""

    package: Package
    images: str  # pattern of the image files in the package's folder
    words: str  # what captions call it


STYLES: dict[StyleName, Style] = {
    "noto": Style(NOTO, "img/google/64/*.png", "flat"),
    "fluent-3d": Style(FLUENT_3D, "assets/*.webp", "3D"),
}


class Emoji(Source):
    """Every emoji that all chosen styles draw, on white, without variants of skin tone and without flags of countries."""

    has_captions = True

    def __init__(self, source: EmojiSource, image_size: int) -> None:
        """Raises ConfigError on repeated styles, DataError if the packages are not fetched."""
        if len(set(source.styles)) != len(source.styles):
            raise ConfigError(f"data.source.styles {source.styles}: a style is named twice")
        labels = _labels(fetched(EMOJIBASE, "emoji") / "en" / "data.json")
        drawn = [_images(style) for style in source.styles]
        codes = [code for code in labels if all(code in files for files in drawn)]
        self.class_names = list(source.styles)
        self.subject_names = [labels[code] for code in codes]
        self._image_size = image_size
        self._files = [files[code] for code in codes for files in drawn]
        self.names = [f"{style}/{code}" for code in codes for style in source.styles]
        self.labels_n = np.tile(np.arange(len(drawn), dtype=np.int64), len(codes))
        self.subjects_n = np.repeat(np.arange(len(codes), dtype=np.int64), len(drawn))
        self.identity = {"name": "emoji", "images": len(self.names)}
        for package in (EMOJIBASE, *(STYLES[style].package for style in source.styles)):
            self.identity[package.name] = package.integrity

    def read(self, index: int) -> NDArray[np.float32]:
        return read_image(self._files[index], self._image_size)

    def caption(self, index: int) -> str:
        assert self.subjects_n is not None and self.subject_names is not None
        return caption(self.subject_names[self.subjects_n[index]], self.class_names[self.labels_n[index]])


def caption(subject: str, style: str) -> str:
    """What an image is called: "a 3D emoji of a red apple" for subject "red apple" in style "fluent-3d"."""
    for name, known in STYLES.items():
        if name == style:
            return f"a {known.words} emoji of {with_article(subject)}"
    raise AssertionError(f"no style {style}")


def with_article(label: str) -> str:
    """A CLDR label with its indefinite article, where it looks like one thing: no name, plural or list ("family: man, boy").

    By its letters alone, so it errs now and then ("a bread"); the same label always gets the same words.
    """
    head = label.split(" with ")[0].split(" of ")[0]
    is_plural = head.endswith("s") and not head.endswith(("ss", "us", "is"))
    if ":" in label or is_plural or not label[0].islower() or label.startswith("no "):
        return label
    return f"an {label}" if label[0] in "aeiou" and not label.startswith(("uni", "one")) else f"a {label}"


def _labels(path: Path) -> dict[str, str]:
    """Code -> CLDR label of every base emoji, in CLDR's order, but for parts and flags of countries."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    wanted = (entry for entry in entries if entry.get("group") not in _PARTS and entry.get("subgroup") not in _COUNTRY_FLAGS)
    return {_code(entry["hexcode"]): entry["label"] for entry in wanted}


def _images(style: StyleName) -> dict[str, Path]:
    folder = fetched(STYLES[style].package, "emoji")
    return {_code(file.stem): file for file in sorted(folder.glob(STYLES[style].images))}


def _code(hexcode: str) -> str:
    """Code points in lower case without FE0F, which says "as a picture" and which the packages write differently."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")
