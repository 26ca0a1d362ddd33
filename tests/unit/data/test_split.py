"""Which images are held out: by class share, or by whole subjects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.data.split import stratified_split, subject_split
from mudit.errors import ConfigError, DataError


def test_split_is_stratified_exact_and_seeded():
    labels = np.repeat(np.arange(3), [50, 30, 21])
    split = stratified_split(labels, 20, seed=0)
    assert sorted(np.concatenate([split["train"], split["validation"]])) == list(range(101))
    assert len(split["validation"]) == 20
    assert np.bincount(labels[split["validation"]]).tolist() == [10, 6, 4]
    assert np.array_equal(stratified_split(labels, 20, seed=0)["train"], split["train"])
    assert not np.array_equal(stratified_split(labels, 20, seed=1)["validation"], split["validation"])
    assert len(set(labels[split["validation"][:6]])) > 1  # any prefix is a fair sample, not one class


def test_nothing_held_out_and_everything_held_out():
    labels = np.arange(4)
    assert len(stratified_split(labels, 0, 0)["validation"]) == 0
    with pytest.raises(DataError, match="the source has 4 images"):
        stratified_split(labels, 4, 0)


@settings(deadline=None, max_examples=60)
@given(subjects=st.integers(2, 40), styles=st.integers(1, 4), seed=st.integers(0, 5), data=st.data())
def test_subjects_are_held_out_whole(subjects, styles, seed, data):
    subjects_n = np.repeat(np.arange(subjects), styles)
    held_out = data.draw(st.integers(0, subjects - 1)) * styles
    split = subject_split(subjects_n, held_out, seed)
    assert sorted(np.concatenate([split["train"], split["validation"]])) == list(range(subjects * styles))
    assert len(split["validation"]) == held_out
    assert not set(subjects_n[split["train"]]) & set(subjects_n[split["validation"]])


def test_subject_split_is_seeded_and_mixed():
    subjects_n = np.repeat(np.arange(100), 2)
    split = subject_split(subjects_n, 40, 0)
    assert np.array_equal(subject_split(subjects_n, 40, 0)["validation"], split["validation"])
    assert not np.array_equal(subject_split(subjects_n, 40, 1)["validation"], split["validation"])
    first = subjects_n[split["validation"][:10]]
    assert len(set(first)) > 5  # a prefix is not a few subjects in all their styles


def test_part_of_a_subject_cannot_be_held_out():
    with pytest.raises(ConfigError, match=r"validation_images 5: .* 2 images each; set it to 4 or 6$"):
        subject_split(np.repeat(np.arange(10), 2), 5, 0)
    with pytest.raises(DataError, match="the source has 20 images; hold out fewer"):
        subject_split(np.repeat(np.arange(10), 2), 20, 0)
