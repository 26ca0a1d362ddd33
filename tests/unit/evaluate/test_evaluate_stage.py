"""`evaluate` from artefacts to self-contained records."""

from __future__ import annotations

import json

import pytest

from mudit.errors import ConfigError
from mudit.evaluate import sample_stage, stage
from mudit.evaluate.records import ACCURACY, DISTRIBUTION_METRICS

LOSSES = ("validation_loss", "validation_mse", "validation_vb")
METRICS = (*DISTRIBUTION_METRICS, ACCURACY)


@pytest.fixture
def evaluate(make_job, store, extractor, tmp_path):
    """Samples and evaluates a target; returns (summary, metric -> record, folder)."""

    def run(experiment, train):
        inputs = {"data": store, "extractor": extractor, "train/mup_s0": train}
        sampled = make_job(experiment, "sample/mup_s0", tmp_path, inputs)
        sample_stage.run(sampled)
        job = make_job(experiment, "evaluate/mup_s0", tmp_path, {**inputs, "sample/mup_s0": sampled.out})
        summary = stage.run(job)
        result = json.loads((job.out / "metrics.json").read_text(), parse_constant=pytest.fail)
        return summary, {record["metric"]: record for record in result["records"]}, job.out

    return run


def test_every_record_says_how_it_was_made(digits, evaluate, target, tmp_path):
    summary, records, folder = evaluate(digits, target)
    assert set(records) == {*LOSSES, *METRICS}
    for name, record in records.items():
        assert record["run"] == "mup_s0"
        assert record["target"]["ema_decay"] == 0.99
        assert len(record["weights"]["sha256"]) == 64
        assert record["value"] == summary[name]
    for name in METRICS:
        record = records[name]
        assert record["n"] == 23
        assert record["sampling"] == {
            "sampler": "ddpm",
            "steps": 4,
            "guidance": 1.0,
            "guide_channels": "all",
            "seed": 0,
            "decoder": {"name": "identity"},
            "prompts": {"kind": "labels", "classes": 10},
        }
        assert record["caution"] is None
        assert (record["reference"]["split"], record["reference"]["n"], record["reference"]["images"]) == ("train", 1500, "pixels")
        assert len(record["extractor"]["sha256"]) == len(record["reference"]["sha256"]) == 64
        assert record["matched"]["n"] == 23
        low, high = record.get("interval", (record["value"] - record.get("std", 0), record["value"] + record.get("std", 0)))
        assert low <= record["value"] <= high
    assert str(tmp_path) not in (folder / "metrics.json").read_text()


def test_untrained_target_is_far_from_the_floor(digits, evaluate, target):
    _, records, _ = evaluate(digits, target)
    distance, accuracy = records["frechet_distance"], records["conditional_accuracy"]
    assert distance["matched"]["value"] > 5 * distance["matched"]["floor"] > 0
    assert distance["second_opinion"] == pytest.approx(distance["value"], rel=1e-3)
    assert accuracy["matched"]["floor"] > 0.95 > accuracy["value"]
    assert records["validation_loss"]["value"] == pytest.approx(
        records["validation_mse"]["value"] + records["validation_vb"]["value"]
    )


def test_diverged_target_has_no_figures_but_reasons(digits, evaluate, diverged_target):
    summary, records, _ = evaluate(digits, diverged_target)
    assert all(record["value"] is None for record in records.values())
    assert records["frechet_distance"]["reason"] == "23 of 23 generated images are not finite"
    assert records["validation_loss"]["reason"] == "the loss is not finite"
    assert summary["frechet_distance"] is None


def test_extractor_without_our_classes_gives_no_accuracy(digits, evaluate, target, monkeypatch):
    import dataclasses

    from mudit.evaluate.extractor_stage import open_extractor

    monkeypatch.setattr(stage, "open_extractor", lambda folder: dataclasses.replace(open_extractor(folder), _has_logits=False))
    _, records, _ = evaluate(digits, target)
    assert records["conditional_accuracy"]["value"] is None
    assert "does not know the classes" in records["conditional_accuracy"]["reason"]


def test_too_few_images_for_the_subsets(digits, evaluate, target):
    section = digits.evaluate.model_copy(update={"kid_subset_size": 24})
    with pytest.raises(ConfigError, match=r"evaluate\.kid_subset_size 24: the smaller set has 23 images"):
        evaluate(digits.model_copy(update={"evaluate": section}), target)


def test_metrics_are_deterministic(digits, evaluate, target, make_job, store, extractor, tmp_path):
    _, _, folder = evaluate(digits, target)
    inputs = {
        "data": store,
        "extractor": extractor,
        "train/mup_s0": target,
        "sample/mup_s0": tmp_path / "results" / "sample" / "mup_s0",
    }
    again = make_job(digits, "evaluate/mup_s0", tmp_path / "again", inputs)
    stage.run(again)
    assert (again.out / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()
