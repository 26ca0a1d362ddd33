"""`random-labels` and `raw-weights`: what is sampled as the published code does it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import mudit.evaluate.stage
from mudit.config.published import PublishedSection
from mudit.evaluate import sample_stage
from mudit.evaluate.prompts import LabelPrompts
from mudit.files import sha256_file
from support import changed

from .conftest import drawn, write_target


def test_random_labels_are_uniform_and_each_images_own():
    numbers_N = torch.arange(20_000)
    labels_N = LabelPrompts(10, seed=3).of(numbers_N).labels_B
    counts = torch.bincount(labels_N, minlength=10)
    assert len(counts) == 10 and (counts - 2000).abs().max() < 5 * (20_000 * 0.1 * 0.9) ** 0.5  # five standard deviations
    assert counts.unique().numel() > 1, "not balanced"
    assert torch.equal(LabelPrompts(10, seed=3).of(numbers_N[100:110]).labels_B, labels_N[100:110])
    assert not torch.equal(LabelPrompts(10, seed=4).of(numbers_N).labels_B, labels_N)


@pytest.fixture
def published(digits):
    """switches -> the experiment with them."""
    return lambda *switches: changed(digits, published=PublishedSection(switches=list(switches), images_per_process=None))


@pytest.fixture
def unequal(digits, tmp_path):
    """A run whose raw weights are others than its average."""
    folder = write_target(tmp_path / "mup_s0", digits)
    raw = load_file(folder / "weights.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in raw.items()}, folder / "weights.safetensors")
    return folder


def test_the_sampled_set_has_the_random_labels_and_says_so(published, make_job, store, target, tmp_path):
    job = make_job(published("random-labels"), "sample/mup_s0", tmp_path, {"data": store, "train/mup_s0": target})
    sample_stage.run(job)
    samples, settings = drawn(job.out)
    assert torch.equal(samples.labels_N, LabelPrompts(10, seed=0).of(torch.arange(23)).labels_B)
    assert samples.labels_N.tolist() != [i % 10 for i in range(23)] and settings["prompts"]["drawn_with"] == 0


def test_images_and_scores_are_those_of_the_raw_weights(digits, published, make_job, store, extractor, unequal, tmp_path):
    images, losses = {}, {}
    for name, experiment, file in (
        ("repaired", digits, "ema.safetensors"),
        ("published", published("raw-weights"), "weights.safetensors"),
    ):
        inputs = {"data": store, "train/mup_s0": unequal}
        job = make_job(experiment, "sample/mup_s0", tmp_path / name, inputs)
        sample_stage.run(job)
        samples, settings = drawn(job.out)
        assert settings["weights"] == {"file": file, "sha256": sha256_file(unequal / file)}
        images[name] = samples.images_NCHW
        scored = make_job(
            experiment, "evaluate/mup_s0", tmp_path / name, inputs | {"extractor": extractor, "sample/mup_s0": job.out}
        )
        mudit.evaluate.stage.run(scored)
        records = json.loads((scored.out / "metrics.json").read_text())["records"]
        losses[name] = next(record["value"] for record in records if record["metric"] == "validation_loss")
    assert not torch.equal(images["repaired"], images["published"])
    assert losses["repaired"] != losses["published"]
