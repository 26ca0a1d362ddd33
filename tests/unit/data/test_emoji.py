"""Emoji: every subject in every style, whole subjects, captions that say both. On a tiny cache; the real one if it is there."""

from __future__ import annotations

import numpy as np
import pytest

from mudit.config.data import EmojiSource
from mudit.data.emoji import Emoji, caption, with_article
from mudit.errors import ConfigError, DataError
from mudit.files import cache_folder
from mudit.packages import SETS, package_folder

BOTH = EmojiSource(kind="emoji", styles=["noto", "fluent-3d"])
REAL = cache_folder()


@pytest.fixture
def emoji(emoji_cache):
    return Emoji(BOTH, 16)


def test_only_subjects_of_all_styles_without_parts_and_country_flags(emoji):
    kept = ["red apple", "onion", "red heart", "eyes", "family: man, boy", "Santa Claus", "dog face"]
    assert emoji.subject_names == kept
    assert emoji.names[:4] == ["noto/1f34e", "fluent-3d/1f34e", "noto/1f9c5", "fluent-3d/1f9c5"]
    assert emoji.labels_n.tolist() == [0, 1] * 7
    assert emoji.subjects_n.tolist() == [subject for subject in range(7) for _ in range(2)]
    assert "panda" in Emoji(EmojiSource(kind="emoji", styles=["noto"]), 16).subject_names


def test_styles_may_come_in_any_order(emoji_cache, emoji):
    turned = Emoji(EmojiSource(kind="emoji", styles=["fluent-3d", "noto"]), 16)
    assert turned.class_names == ["fluent-3d", "noto"]
    assert np.array_equal(turned.read(0), emoji.read(1))
    assert turned.caption(0) == emoji.caption(1) == "a 3D emoji of a red apple"


def test_images_lie_on_white(emoji):
    for index, red in ((0, 40), (1, 220), (4, 80), (5, 180)):
        pixels = emoji.read(index)
        assert (pixels.shape, pixels.dtype) == ((3, 16, 16), np.float32)
        assert (pixels[:, :, 8:] == 1.0).all(), "what is transparent is white"
        assert np.allclose((pixels[:, :, :7] + 1) * 127.5, np.array([red, 0, 0])[:, None, None], atol=1.0)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("red apple", "a red apple"),
        ("onion", "an onion"),
        ("unicorn", "a unicorn"),
        ("eyes", "eyes"),
        ("wine glass", "a wine glass"),
        ("octopus", "an octopus"),
        ("Santa Claus", "Santa Claus"),
        ("1st place medal", "1st place medal"),
        ("family: man, boy", "family: man, boy"),
        ("face with tears of joy", "a face with tears of joy"),
        ("no entry", "no entry"),
    ],
)
def test_articles(label, words):
    assert with_article(label) == words
    assert caption(label, "noto") == f"a flat emoji of {words}"


def test_identity_names_the_packages(emoji):
    assert emoji.identity["images"] == 14
    assert sum(str(value).startswith("sha512-") for value in emoji.identity.values()) == 3


def test_repeated_style_is_refused(emoji_cache):
    with pytest.raises(ConfigError, match="a style is named twice"):
        Emoji(EmojiSource(kind="emoji", styles=["noto", "noto"]), 16)


def test_unfetched_emoji_say_which_command_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"not fetched yet; run: mudit fetch emoji$"):
        Emoji(BOTH, 16)


@pytest.mark.skipif(
    not all((REAL / "packages" / package.folder).is_dir() for package in SETS["emoji"]), reason="needs: mudit fetch emoji"
)
def test_the_real_packages(monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(REAL))
    assert package_folder(SETS["emoji"][0]).is_relative_to(REAL)
    emoji = Emoji(BOTH, 32)
    assert (len(emoji.subject_names), len(emoji.names)) == (1607, 3214)
    assert len(set(emoji.subject_names)) == 1607
    place = emoji.subject_names.index("red apple")
    assert [emoji.caption(2 * place), emoji.caption(2 * place + 1)] == ["a flat emoji of a red apple", "a 3D emoji of a red apple"]
    for index in (2 * place, 2 * place + 1):
        pixels = emoji.read(index)
        red, green, _ = pixels[:, 12:24, 10:22].mean(axis=(1, 2))
        assert red > 0.3 > green, "a red apple is red"
        assert (pixels[:, 0, 0] > 0.9).all()
    difference = [np.abs(emoji.read(2 * subject) - emoji.read(2 * subject + 1)).mean() for subject in range(0, 1607, 40)]
    assert np.median(difference) > 0.1, "the two styles are two drawings"
