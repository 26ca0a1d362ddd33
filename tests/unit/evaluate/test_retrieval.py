"""Recalls and candidates against counting by hand, and what ties and repeated captions do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from mudit.errors import ConfigError
from mudit.evaluate.retrieval import caption_ids, draw_candidates, finds_own, ranks, recalls, share


def embeddings(count: int, seed: int, dim: int = 6) -> torch.Tensor:
    """Random directions [N, S]."""
    return normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_equal_captions_share_a_number():
    assert caption_ids(["a", "b", "a", "c", "b"]).tolist() == [0, 1, 0, 3, 1]


def test_share_has_interval_count_and_chance():
    assert share(8, 10, 0.1) == {"value": 0.8, "interval": pytest.approx([0.4901625, 0.9433178]), "n": 10, "chance": 0.1}


@given(count=st.integers(2, 40), seed=st.integers(0, 1000), repeats=st.integers(1, 3))
def test_ranks_by_counting(count, seed, repeats):
    queries, gallery = embeddings(count, seed), embeddings(count, seed + 1)
    ids = torch.arange(count) // repeats * repeats
    found = ranks(queries, gallery, ids, ids).tolist()
    for query in range(count):
        scores = (queries[query] @ gallery.T).tolist()
        best = max(score for score, number in zip(scores, ids.tolist(), strict=True) if number == ids[query])
        better = sum(score > best for score, number in zip(scores, ids.tolist(), strict=True) if number != ids[query])
        assert found[query] == better


def test_large_sets_are_compared_in_pieces(monkeypatch):
    queries, ids = embeddings(50, 0), torch.arange(50)
    whole = ranks(queries, embeddings(50, 1), ids, ids)
    monkeypatch.setattr("mudit.evaluate.retrieval._CHUNK", 7)
    assert torch.equal(ranks(queries, embeddings(50, 1), ids, ids), whole)


def test_ties_and_numbers_that_are_not_finite_are_misses():
    same, ids = torch.ones(5, 4) / 2, torch.arange(5)
    assert ranks(same, same, ids, ids).tolist() == [4] * 5
    assert ranks(torch.full((5, 4), torch.nan), same, ids, ids).tolist() == [4] * 5
    rivals = torch.tensor([[1], [2], [3], [4], [0]])
    assert not finds_own(same, same, same, rivals).any()
    assert not finds_own(torch.full((5, 4), torch.nan), same, same, rivals).any()


def test_recalls_go_both_ways_beside_chance():
    captions = torch.eye(20)
    images = captions.clone()
    images[[3, 4]] = images[[4, 3]]  # two images in each other's place
    found = recalls(images, captions, torch.arange(20))
    for direction in ("text_to_image", "image_to_text"):
        # A swapped pair ties with all other zeros: a miss at every k here.
        assert {name: each["value"] for name, each in found[direction].items()} == {"R@1": 0.9, "R@5": 0.9, "R@10": 0.9}
        assert [each["chance"] for each in found[direction].values()] == [1 / 20, 5 / 20, 10 / 20]
        assert found[direction]["R@1"]["n"] == 20
    assert list(recalls(images[:5], captions[:5], torch.arange(5))["text_to_image"]) == ["R@1"]  # R@5 of 5 says nothing


def test_random_embeddings_find_what_chance_finds():
    found = recalls(embeddings(400, 0), embeddings(400, 1), torch.arange(400))["text_to_image"]["R@10"]
    assert found["interval"][0] < found["chance"] < found["interval"][1]


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    texts=st.integers(1, 40),
    candidates=st.integers(2, 6),
    seed=st.integers(0, 5),
)
def test_candidates_are_different_captions_of_the_same_class(labels, texts, candidates, seed):
    captions = [f"{label} {place % texts}" for place, label in enumerate(labels)]
    ids, labels_N = caption_ids(captions), torch.tensor(labels)
    fewest = min(len({caption for caption, each in zip(captions, labels, strict=True) if each == label}) for label in labels)
    if fewest < candidates:
        with pytest.raises(ConfigError, match=rf"^scorer\.candidates {candidates}: class \w+ has \d+ held-out captions; lower it$"):
            draw_candidates(ids, labels_N, ["one", "two", "three"], candidates, seed)
        return
    rivals = draw_candidates(ids, labels_N, ["one", "two", "three"], candidates, seed)
    assert rivals.shape == (len(labels), candidates - 1)
    for place, row in enumerate(rivals.tolist()):
        assert {labels[rival] for rival in row} == {labels[place]}
        assert len({captions[rival] for rival in row} | {captions[place]}) == candidates
    assert torch.equal(rivals, draw_candidates(ids, labels_N, ["one", "two", "three"], candidates, seed))


def test_candidates_differ_between_captions_and_seeds():
    ids, labels = torch.arange(60), torch.zeros(60, dtype=torch.int64)
    first, other = (draw_candidates(ids, labels, ["one"], 8, seed) for seed in (0, 1))
    assert not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) > 50
    # Every caption serves as a rival about equally often.
    assert first.flatten().bincount(minlength=60).float().std() < 4


def test_own_caption_must_beat_every_rival():
    captions, rivals = torch.eye(4), torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]])
    images = torch.tensor([[0.9, 0.1, 0, 0], [0.5, 0.4, 0, 0], [0, 0.3, 0.4, 0.9], [0, 0.1, 0, 0.2]])
    # The second prefers caption 0; the third prefers caption 3, which is not among its rivals.
    assert finds_own(images, captions, captions, rivals).tolist() == [True, False, True, True]
