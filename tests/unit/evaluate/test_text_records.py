"""The CLIP-like score and the compositional check on generators whose score is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mudit.errors import ConfigError
from mudit.evaluate.composition import Composition
from mudit.evaluate.intervals import bootstrap
from mudit.evaluate.retrieval import draw_candidates
from mudit.evaluate.scorer import HeldOut, Seen
from mudit.evaluate.text_records import TEXT_METRICS, text_records

V, DIM, CANDIDATES = 40, 64, 4
IDS, LABELS = torch.arange(V), torch.arange(V) % 2
COMPOSITION = Composition(IDS, LABELS, draw_candidates(IDS, LABELS, ["flat", "deep"], CANDIDATES, seed=0), 2)


def directions(seed: int) -> torch.Tensor:
    return normalize(torch.randn(V, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


CAPTIONS = directions(0)
REAL = HeldOut(Seen(normalize(CAPTIONS + 0.8 * directions(1), dim=1), LABELS.clone()), CAPTIONS)


def records(embeddings, classes, own):
    found = text_records(Seen(embeddings, classes), own, REAL, COMPOSITION, seed=0)
    assert [record["metric"] for record in found] == list(TEXT_METRICS)
    return {record["metric"]: record for record in found}


def test_real_images_reach_the_ceiling_exactly():
    found = records(REAL.seen.embeddings_NS, LABELS, IDS)
    for record in found.values():
        assert record["value"] == record["ceiling"]["value"]
        assert record["n"] == record["ceiling"]["n"] == V
        assert record["interval"][0] <= record["value"] <= record["interval"][1]


def test_images_that_are_their_captions_score_a_hundred():
    found = records(CAPTIONS, LABELS, IDS)
    assert found["clip_like_score"]["value"] == pytest.approx(100, abs=1e-4)
    assert found["clip_like_score"]["floor"]["value"] == pytest.approx(0, abs=5)
    assert {name: record["value"] for name, record in found.items() if "accuracy" in name} == {
        "style_accuracy": 1,
        "subject_accuracy": 1,
        "composition_accuracy": 1,
    }


def test_floor_is_the_mean_over_all_shuffles():
    images = directions(3)
    found = records(images, LABELS, IDS)["clip_like_score"]
    table = 100 * (images.double() @ CAPTIONS.double().T)
    others = (table.sum() - table.trace()) / (V * (V - 1))
    assert found["floor"]["value"] == pytest.approx(others.item(), abs=1e-4)
    assert found["value"] == pytest.approx(table.trace().item() / V, abs=1e-4)


def test_noise_scores_chance_and_the_floor():
    own = torch.arange(600) % V
    images = normalize(torch.randn(600, DIM, generator=torch.Generator().manual_seed(4)), dim=1)
    guesses = torch.randint(0, 2, (600,), generator=torch.Generator().manual_seed(5))
    found = records(images, guesses, own)
    for name, chance in (("style_accuracy", 1 / 2), ("subject_accuracy", 1 / 4), ("composition_accuracy", 1 / 8)):
        low, high = found[name]["interval"]
        assert found[name]["chance"] == pytest.approx(chance)
        assert low - 0.02 < chance < high + 0.02
    score = found["clip_like_score"]
    assert score["interval"][0] < score["floor"]["interval"][1] and score["floor"]["interval"][0] < score["interval"][1]


def test_style_and_subject_are_judged_apart():
    wrong_style = records(CAPTIONS, 1 - LABELS, IDS)
    assert [wrong_style[name]["value"] for name in TEXT_METRICS[1:]] == [0, 1, 0]
    # Each image shows the first of its rivals: the right style, never the subject.
    wrong_subject = records(CAPTIONS[COMPOSITION.rivals_VM[:, 0]], LABELS, IDS)
    assert [wrong_subject[name]["value"] for name in TEXT_METRICS[1:]] == [1, 0, 0]
    half = records(torch.cat([CAPTIONS[:20], CAPTIONS[COMPOSITION.rivals_VM[20:, 0]]]), LABELS.where(IDS % 4 < 2, 1 - LABELS), IDS)
    assert [half[name]["value"] for name in TEXT_METRICS[1:]] == [0.5, 0.5, 0.25]


def test_ceiling_is_of_the_captions_that_were_used():
    used = records(CAPTIONS[:10], LABELS[:10], IDS[:10])
    assert used["clip_like_score"]["ceiling"]["n"] == used["subject_accuracy"]["ceiling"]["n"] == 10
    expected = 100 * (REAL.seen.embeddings_NS[:10] * CAPTIONS[:10]).sum(dim=1).mean().item()
    assert used["clip_like_score"]["ceiling"]["value"] == pytest.approx(expected, abs=1e-4)
    again = records(CAPTIONS[:10].repeat(2, 1), LABELS[:10].repeat(2), IDS[:10].repeat(2))
    assert again["clip_like_score"]["ceiling"] == used["clip_like_score"]["ceiling"]


def test_repeated_captions_do_not_enter_the_floor():
    """Two captions with the same text are one: neither is the other's wrong caption."""
    ids = IDS.clone()
    ids[1] = 0
    captions = CAPTIONS.clone()
    captions[1] = captions[0]
    composition = COMPOSITION._replace(ids_V=ids)
    found = text_records(Seen(captions[:2], LABELS[:2]), IDS[:2], HeldOut(REAL.seen, captions), composition, 0)[0]
    assert found["floor"] is None
    found = text_records(Seen(captions[:3], LABELS[:3]), IDS[:3], HeldOut(REAL.seen, captions), composition, 0)[0]
    similarity = 100 * float(captions[0] @ captions[2])
    assert found["floor"]["value"] == pytest.approx(similarity, abs=1e-4)


def test_one_class_has_no_style():
    single = COMPOSITION._replace(labels_V=torch.zeros_like(LABELS), num_classes=1)
    reference = HeldOut(Seen(REAL.seen.embeddings_NS, None), CAPTIONS)
    found = {record["metric"]: record for record in text_records(Seen(CAPTIONS, None), IDS, reference, single, 0)}
    assert found["subject_accuracy"]["value"] == 1
    for name in ("style_accuracy", "composition_accuracy"):
        assert (found[name]["value"], found[name]["reason"]) == (None, "the data set has one class")


def test_one_image_is_too_few():
    with pytest.raises(ConfigError, match=r"sample\.images 1: the CLIP-like score needs two or more; raise it"):
        records(CAPTIONS[:1], LABELS[:1], IDS[:1])


def test_bootstrap_is_deterministic_and_covers():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(50)
    assert bootstrap(values, 0) == bootstrap(values, 0) != bootstrap(values, 1)
    assert bootstrap(np.full(5, 2.0), 0) == [2.0, 2.0]
    covered = sum(low < 0 < high for low, high in (bootstrap(rng.standard_normal(60), 0) for _ in range(100)))
    assert 88 <= covered <= 100
