"""Mask2Former without mmdet: instances from a network's raw outputs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mudit.benchmark.detector import Mask2Former, geneval_name
from mudit.config.benchmarks import DetectorSection
from mudit.errors import DataError


def section(folder, **changes) -> DetectorSection:
    return DetectorSection.model_validate({"path": str(folder), "short_side": 64, "long_side": 128, "detections": 100} | changes)


@pytest.fixture(scope="module")
def detector(detector_folder):
    return Mask2Former(section(detector_folder), "benchmarks.geneval.detector")


def test_a_random_network_gives_objects_inside_the_image(detector):
    images = torch.randint(0, 256, (2, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = detector.detect(images)
    assert len(found) == 2 and found[0], "a random network sees things"
    assert [each.score for each in found[0]] == sorted((each.score for each in found[0]), reverse=True)
    for each in found[0]:
        left, top, right, bottom = each.box
        assert 0 <= left < right <= 60 and 0 <= top < bottom <= 40
        assert each.mask_HW.shape == (40, 60) and each.mask_HW.dtype == bool and 0 < each.score < 1
        assert each.name in detector.classes
    alone = detector.detect(images[1:])[0]
    np.testing.assert_allclose([each.score for each in alone], [each.score for each in found[1]], rtol=1e-4)


def test_names_follow_geneval(detector):
    assert detector.classes == {"bench", "dog", "computer mouse"}


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("person", "person"),
        ("remote", "tv remote"),
        ("keyboard", "computer keyboard"),
        ("dining table", "dining table"),
        ("dining_table", "dining table"),
        ("diningtable", "dining table"),
        ("tvmonitor", "tv"),
        ("aeroplane", "airplane"),
        ("hair_drier", "hair drier"),
    ],
)
def test_labels_of_published_models_are_understood(label, name):
    assert geneval_name(label) == name


def with_outputs(detector, classes_QK, masks_Qhw, monkeypatch):
    """The detector with a network that says what it is told, and keeps what it was shown."""
    shown = []

    def network(pixel_values):
        shown.append(pixel_values)
        return SimpleNamespace(class_queries_logits=classes_QK[None], masks_queries_logits=masks_Qhw[None])

    monkeypatch.setattr(detector, "_network", network)
    return shown


def logits(query_classes: list[tuple[int, float]]) -> torch.Tensor:
    """[Q, K + 1] whose softmax gives each query's class its probability and the rest to "nothing"."""
    probabilities = torch.full((len(query_classes), 4), 1e-9)
    for query, (kind, probability) in enumerate(query_classes):
        probabilities[query, kind], probabilities[query, 3] = probability, 1 - probability
    return probabilities.log()


def test_confidence_box_and_mask_of_an_instance(detector, monkeypatch):
    masks = torch.full((2, 16, 16), -20.0)
    masks[0, 4:8, 2:6] = 20.0  # a quarter of the input's resolution
    masks[1, 8:, 8:] = 2.0
    with_outputs(detector, logits([(1, 0.9), (0, 0.6)]), masks, monkeypatch)
    dog, bench, *rest = detector.detect(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[0]
    assert (dog.name, bench.name) == ("dog", "bench")
    assert all(each.score < 1e-6 for each in rest), "pairs of query and class that are hardly possible are listed, far behind"
    assert dog.box == (8.0, 16.0, 24.0, 32.0)
    assert dog.score == pytest.approx(0.9 * torch.sigmoid(torch.tensor(20.0)).item(), abs=0.03), "less where the mask fades out"
    assert bench.score == pytest.approx(0.6 * 0.87, abs=0.03), "a mask of little certainty lowers the confidence"
    assert dog.mask_HW[18:30, 10:22].all() and dog.mask_HW.sum() <= 16 * 16, "corners are rounded"


def test_what_was_padded_is_cut_off_before_masks_are_enlarged(detector, monkeypatch):
    """An image of 64 x 40 becomes one of 102 x 64 and is padded to 128 x 64; a mask over the image ends with it."""
    masks = torch.full((1, 32, 16), 20.0)
    shown = with_outputs(detector, logits([(1, 0.9)]), masks, monkeypatch)
    dog = detector.detect(torch.full((1, 3, 64, 40), 255, dtype=torch.uint8))[0][0]
    assert shown[0].shape == (1, 3, 128, 64)
    assert (shown[0][0, :, :102] > 2).all() and (shown[0][0, :, 102:] == 0).all(), "white, standardised, then zeros"
    assert dog.box == (0.0, 0.0, 40.0, 64.0)


def test_an_empty_mask_is_no_object_and_one_query_may_be_two_things(detector, monkeypatch):
    masks = torch.full((2, 16, 16), -20.0)
    masks[0, :8] = 20.0
    probabilities = torch.tensor([[0.5, 0.4, 1e-9, 0.1], [0.9, 1e-9, 1e-9, 0.1]])
    with_outputs(detector, probabilities.log(), masks, monkeypatch)
    sure = [each.name for each in detector.detect(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[0] if each.score > 0.1]
    assert sure == ["bench", "dog"]


def test_no_more_pairs_are_looked_at_than_asked_for(detector_folder):
    few = Mask2Former(section(detector_folder, detections=3), "here")
    assert len(few.detect(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[0]) <= 3
    assert few.identity["detections"] == 3 and len(few.identity["sha256"]) == 64


def test_another_model_is_refused(clip_folder, tmp_path):
    with pytest.raises(DataError, match=r"benchmarks\.geneval\.detector\.path .*holds a 'clip' model, not one of mask2former"):
        Mask2Former(section(clip_folder), "benchmarks.geneval.detector")
    with pytest.raises(DataError, match=r"no config\.json"):
        Mask2Former(section(tmp_path), "benchmarks.geneval.detector")


def test_instances_are_those_of_transformers_own_reading(detector_folder):
    """At the size to which `transformers` brings its masks, and with its limit, one a query: the same objects and confidences."""
    from transformers import Mask2FormerForUniversalSegmentation
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    side = 384
    ours = Mask2Former(section(detector_folder, short_side=side, long_side=side, detections=5), "here")
    images = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network = Mask2FormerForUniversalSegmentation.from_pretrained(detector_folder).eval()
    with torch.no_grad():
        output = network(pixel_values=ours._prepared(images))
    read = Mask2FormerImageProcessorPil().post_process_instance_segmentation(
        output, threshold=0.0, target_sizes=[(side, side)], return_binary_maps=True
    )[0]
    theirs = sorted(((each["score"], each["label_id"]) for each in read["segments_info"]), reverse=True)
    found = ours.detect(images)[0]
    assert [each.name for each in found] == [ours._names[label] for _, label in theirs] and len(found) > 1
    np.testing.assert_allclose([each.score for each in found], [score for score, _ in theirs], atol=1e-5)
    areas = sorted(int(mask.sum()) for mask in read["segmentation"])
    assert sorted(int(each.mask_HW.sum()) for each in found) == areas
