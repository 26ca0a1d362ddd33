"""Benchmarks in the configuration: published numbers are insisted on unless asked otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mudit.config.load import load
from mudit.config.schema import Experiment
from support import ROOT


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    experiment = load(ROOT / "config.yaml").experiments["pixart-sa1b"]
    return {name: section for name, section in experiment.model_dump(mode="json").items() if section is not None}


def with_change(raw: dict[str, Any], path: str, value: Any) -> Experiment:
    """`value` at a dotted path; None removes what is there."""
    copy = json.loads(json.dumps(raw))
    *parents, last = path.split(".")
    place = copy
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return Experiment.model_validate_json(json.dumps(copy), strict=True)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("benchmarks.coco.images", 10_000, "images 10000: the protocol fid-30k has 30000; set it, or protocol to any"),
        ("benchmarks.geneval.images_per_prompt", 1, "images_per_prompt 1: the protocol geneval has 4"),
        ("benchmarks.geneval.rules.threshold", 0.5, r"rules\.threshold 0\.5: the protocol geneval has 0\.3"),
        ("benchmarks.geneval.rules.position_slack", 0.0, r"rules\.position_slack 0\.0: the protocol geneval has 0\.1"),
        ("benchmarks.geneval.detector.short_side", 80, r"detector\.short_side 80: the protocol geneval has 800"),
        ("benchmarks.geneval.detector.detections", 50, r"detector\.detections 50: the protocol geneval has 100"),
        ("sample", None, "evaluate: needs a section sample|benchmarks: images are drawn as section sample says"),
        ("evaluate", None, r"benchmarks\.coco: its distance uses the extractor of section evaluate; add it"),
    ],
)
def test_what_is_not_as_published_is_an_error(raw, path, value, message):
    with pytest.raises(ValueError, match=message):
        with_change(raw, path, value)


def test_another_extractor_is_no_fid_30k(raw):
    other = json.loads(json.dumps(raw))
    other["evaluate"] |= {"extractor": "efficientnet-lite0", "protocol": "any"}
    with pytest.raises(ValueError, match=r"benchmarks\.\w+\.protocol: fid-30k is of inception-v3-compat"):
        Experiment.model_validate_json(json.dumps(other), strict=True)


@pytest.mark.parametrize(("count", "few"), [(1, True), (19, True), (20, False)])
def test_a_distance_has_as_many_images_as_its_interval_needs(raw, count, few):
    asked = json.loads(json.dumps(raw))
    asked["benchmarks"]["coco"]["protocol"] = "any"
    if few:
        with pytest.raises(ValueError, match=rf"benchmarks\.coco\.images: {count}, but the interval .* make it 20 or more"):
            with_change(asked, "benchmarks.coco.images", count)
    else:
        assert with_change(asked, "benchmarks.coco.images", count)


@pytest.mark.parametrize(
    ("path", "value"), [("coco.images", 10_000), ("geneval.images_per_prompt", 1), ("geneval.detector.long_side", 900)]
)
def test_any_other_numbers_may_be_asked_for(raw, path, value):
    asked = json.loads(json.dumps(raw))
    asked["benchmarks"][path.split(".")[0]]["protocol"] = "any"
    assert with_change(asked, f"benchmarks.{path}", value)


def test_models_of_labels_have_no_text_benchmarks(raw):
    dit = load(ROOT / "config.yaml").experiments["dit-imagenet"].model_dump(mode="json")
    dit = {name: section for name, section in dit.items() if section is not None} | {"benchmarks": raw["benchmarks"]}
    with pytest.raises(ValueError, match="benchmarks: prompts are text, and this model reads none"):
        Experiment.model_validate_json(json.dumps(dit), strict=True)
