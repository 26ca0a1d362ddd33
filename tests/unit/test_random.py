"""Counter-based randomness: known answers, purity, distribution."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit import random


def _philox_hex(counter: int, key: int) -> list[str]:
    words = random.philox([torch.tensor([counter])] * 4, (key, key))
    return [f"{int(word):08x}" for word in words]


def test_philox_matches_the_published_known_answers():
    # Random123's kat_vectors for philox4x32-10: all zeros, all ones.
    assert _philox_hex(0, 0) == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert _philox_hex(0xFFFFFFFF, 0xFFFFFFFF) == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), step=st.integers(0, 2**31), batch=st.integers(1, 40), split=st.integers(0, 40))
def test_a_draw_depends_on_its_sample_index_only(seed, step, batch, split):
    """Any partition of the batch over ranks draws the same numbers."""
    index = torch.arange(batch)
    split = min(split, batch)
    whole = random.normal(seed, "noise", step, index, (3, 2))
    parts = [random.normal(seed, "noise", step, part, (3, 2)) for part in (index[:split], index[split:]) if len(part)]
    assert torch.equal(whole, torch.cat(parts))


def test_many_steps_at_once_are_the_same_numbers():
    place, step = torch.arange(5).repeat(3), torch.tensor([7, 8, 900]).repeat_interleave(5)
    together = random.normal(1, "noise", step, place, (2, 3))
    apart = [random.normal(1, "noise", each, torch.arange(5), (2, 3)) for each in (7, 8, 900)]
    assert torch.equal(together, torch.cat(apart))


def test_streams_steps_and_seeds_differ():
    index = torch.arange(64)
    base = random.uniform(0, "a", 0, index)
    for other in (random.uniform(1, "a", 0, index), random.uniform(0, "b", 0, index), random.uniform(0, "a", 1, index)):
        assert not (base == other).any()
    assert random.torch_seed(0, "init/a") != random.torch_seed(0, "init/b")


def test_uniform_and_normal_have_their_moments():
    index = torch.arange(4000)
    uniform = random.uniform(3, "u", 7, index, (25,))
    normal = random.normal(3, "n", 7, index, (5, 5)).double()
    assert uniform.min() > 0 and uniform.max() < 1
    # 100,000 draws: four standard errors of mean, variance and fourth moment.
    assert abs(uniform.double().mean() - 0.5) < 4 * 0.2887 / 316
    assert abs(normal.mean()) < 4 / 316
    assert abs(normal.var() - 1) < 4 * 2**0.5 / 316
    assert abs(normal.pow(4).mean() - 3) < 4 * 96**0.5 / 316


def test_normals_of_neighbouring_elements_are_uncorrelated():
    pairs = random.normal(0, "n", 0, torch.arange(20_000), (2,)).double()
    assert abs((pairs[:, 0] * pairs[:, 1]).mean()) < 4 / 20_000**0.5


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 3000), epoch=st.integers(0, 100))
def test_permutation_is_one(count, epoch):
    assert torch.equal(random.permutation(0, "order", epoch, count).sort().values, torch.arange(count))


def test_integers_are_in_range_and_cover_it():
    drawn = random.integers(0, "t", 0, torch.arange(20_000), 10)
    counts = torch.bincount(drawn, minlength=10)
    assert len(counts) == 10 and counts.min() > 1800
