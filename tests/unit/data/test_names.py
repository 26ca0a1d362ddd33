"""Packed names are a list of strings in two arrays."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudit.data.names import ChosenNames, PackedNames, names_sha256

_NAMES = st.lists(st.binary(max_size=20).map(os.fsdecode), max_size=12)


@given(names=_NAMES, cut=st.tuples(st.integers(-15, 15), st.integers(-15, 15)))
def test_packed_names_are_the_list(names, cut):
    packed = PackedNames.of(iter(names))
    assert (list(packed), len(packed), packed[slice(*cut)]) == (names, len(names), names[slice(*cut)])
    for place in range(-len(names), len(names)):
        assert packed[place] == names[place]
    with pytest.raises(IndexError):
        packed[len(names)]


@given(names=_NAMES, other=_NAMES)
def test_digests_differ_as_the_lists_do(names, other):
    assert (names_sha256(PackedNames.of(names)) == names_sha256(PackedNames.of(other))) == (names == other)


def test_chosen_names_are_looked_up():
    chosen = ChosenNames(["a", "b", "c"], np.array([2, 0]))
    assert (list(chosen), chosen[-1], chosen[:1]) == (["c", "a"], "a", ["c"])
