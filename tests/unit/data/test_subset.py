"""A share of a source: seeded, stratified, nested, and blind to the order of files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.data.emoji import Emoji
from mudit.data.sources import SklearnDigits, Source, open_source
from mudit.data.subset import Subset

from .conftest import emoji_section, section


class Named(Source):
    """Images by name, of the class of their first letter; an image is its name's length."""

    def __init__(self, names):
        self.names = list(names)
        self.class_names = ["a", "b", "c"]
        self.labels_n = np.array(["abc".index(name[0]) for name in self.names], dtype=np.int64)
        self.identity = {"name": "named", "images": len(self.names)}

    def read(self, index):
        return np.full((1, 1, 1), len(self.names[index]), dtype=np.float32)


NAMES = [f"{'abc'[number % 7 % 3]}{number}" for number in range(700)]


@settings(deadline=None)
@given(order=st.permutations(NAMES[:60]), share=st.floats(0.01, 1), seed=st.integers(0, 2**63))
def test_the_order_of_files_does_not_matter(order, share, seed):
    assert set(Subset(Named(order), share, seed).names) == set(Subset(Named(NAMES[:60]), share, seed).names)


@settings(deadline=None)
@given(shares=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)), seed=st.integers(0, 9))
def test_smaller_shares_lie_within_larger_ones(shares, seed):
    small, large = (set(Subset(Named(NAMES), share, seed).names) for share in sorted(shares))
    assert small <= large


def test_one_and_ten_per_cent_of_each_class():
    source = Named(NAMES)
    for share in (0.01, 0.1):
        chosen = Subset(source, share, 0)
        assert np.bincount(chosen.labels_n).tolist() == np.ceil(np.bincount(source.labels_n) * share).tolist()
    assert set(Subset(source, 0.1, 0).names) != set(Subset(source, 0.1, 1).names)


def test_a_tenth_of_thirty_is_three():
    assert len(Subset(Named([f"a{number}" for number in range(30)]), 0.1, 0).names) == 3


def test_images_and_labels_are_the_sources_own():
    digits = SklearnDigits(8)
    chosen = Subset(digits, 0.05, 3)
    for place, name in enumerate(chosen.names):
        original = digits.names.index(name)
        assert np.array_equal(chosen.read(place), digits.read(original))
        assert chosen.labels_n[place] == digits.labels_n[original]
    assert chosen.identity["share"] == "0.05" and chosen.identity["sha256"] == digits.identity["sha256"]


def test_subjects_stay_whole(emoji_cache):
    data = emoji_section(share=0.5)
    chosen = open_source(data)
    whole = Emoji(data.source, data.image_size)
    kept = set(chosen.subjects_n.tolist())
    assert len(kept) == -(-len(whole.subject_names) // 2)
    assert len(chosen.names) == sum(subject in kept for subject in whole.subjects_n.tolist())
    assert chosen.caption(0) == whole.caption(whole.names.index(chosen.names[0]))


@pytest.mark.parametrize("share", [0.0, 1.5, -1])
def test_shares_outside_zero_to_one_are_refused(share):
    with pytest.raises(ValueError, match="share"):
        section(share=share)
