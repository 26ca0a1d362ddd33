"""Sampling: the same images for any batching, balanced labels, resume, and runs that left the number range."""

from __future__ import annotations

import json
import os

import pytest
import torch
from PIL import Image

from mudit.errors import DataError
from mudit.evaluate import sample_stage
from mudit.evaluate.samples import GRID_FILE, load_artefact
from mudit.evaluate.sheets import class_sheet


@pytest.fixture
def sample(make_job, store, target, tmp_path):
    """Runs the stage in a fresh folder; returns (summary, samples, settings, job)."""
    counter = iter(range(100))

    def run(experiment, train=target, root=None):
        job = make_job(experiment, "sample/mup_s0", root or tmp_path / str(next(counter)), {"data": store, "train/mup_s0": train})
        summary = sample_stage.run(job)
        return summary, *load_artefact(job.out), job

    return run


def changed(experiment, **changes):
    return experiment.model_copy(update={"sample": experiment.sample.model_copy(update=changes)})


def test_images_labels_and_seeds(digits, sample):
    summary, samples, settings, _ = sample(digits)
    assert (samples.images_NCHW.shape, samples.images_NCHW.dtype) == ((23, 1, 8, 8), torch.uint8)
    assert samples.labels_N.tolist() == [i % 10 for i in range(23)]
    assert samples.seeds_N2.tolist() == [[0, i] for i in range(23)]
    assert samples.images_NCHW.float().std() > 10
    assert (summary["images"], summary["not_finite"], summary["device"]) == (23, 0, "cuda" if torch.cuda.is_available() else "cpu")
    assert (settings["sampler"], settings["steps"], settings["target"]["ema_decay"]) == ("ddpm", 4, 0.99)


@pytest.mark.parametrize("changes", [{}, {"guidance": 3.0}, {"sampler": "dpm-solver++"}], ids=["ddpm", "guided", "dpm-solver++"])
def test_images_do_not_depend_on_batch_size(digits, sample, changes):
    """Matrix products of another batch size round differently, so a pixel may move to the next of 256 levels, rarely."""
    whole = sample(changed(digits, batch_size=23, **changes))[1]
    parts = sample(changed(digits, batch_size=7, **changes))[1]
    steps_apart = (whole.images_NCHW.int() - parts.images_NCHW.int()).abs()
    assert steps_apart.max() <= 1
    assert (steps_apart > 0).float().mean() < 0.01
    assert torch.equal(whole.labels_N, parts.labels_N)


def test_more_images_begin_with_the_same_images(digits, sample):
    few, more = sample(changed(digits, images=10))[1], sample(digits)[1]
    assert torch.equal(few.images_NCHW, more.images_NCHW[:10])


def test_guidance_counts_both_passes(digits, sample):
    plain, twice = sample(digits)[0], sample(changed(digits, guidance=2.0))[0]
    assert twice["flops"] == 2 * plain["flops"] > 0


def test_artefact_is_deterministic(digits, sample):
    first, again = sample(digits)[3].out, sample(digits)[3].out
    assert {f.name: f.read_bytes() for f in first.iterdir()} == {f.name: f.read_bytes() for f in again.iterdir()}


def test_killed_sampling_goes_on_at_the_first_missing_batch(digits, sample, make_job, store, target, tmp_path, monkeypatch):
    drawn = []
    draw = sample_stage._Batches.draw

    def killed_at_second(self, numbers_B):
        drawn.append(numbers_B.tolist())
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(self, numbers_B)

    monkeypatch.setattr(sample_stage._Batches, "draw", killed_at_second)
    job = make_job(digits, "sample/mup_s0", tmp_path / "killed", {"data": store, "train/mup_s0": target})
    with pytest.raises(KeyboardInterrupt):
        sample_stage.run(job)
    sample_stage.run(job)
    assert [numbers[0] for numbers in drawn] == [0, 10, 10, 20]
    assert torch.equal(load_artefact(job.out)[0].images_NCHW, sample(digits)[1].images_NCHW)
    assert not job.state.exists()


def test_other_settings_throw_away_unfinished_batches(digits, make_job, store, target, tmp_path, sample):
    job = make_job(changed(digits, seed=1), "sample/mup_s0", tmp_path / "other", {"data": store, "train/mup_s0": target})
    sample_stage._start_or_resume(job.state, {"other": "plan"})
    (job.state / "images-00000000.safetensors").write_bytes(b"of another plan")
    sample_stage.run(job)
    images = load_artefact(job.out)[0].images_NCHW
    assert not torch.equal(images, sample(digits)[1].images_NCHW)


def test_images_that_are_not_finite_are_counted(digits, sample, diverged_target):
    summary, samples, _, _ = sample(digits, diverged_target)
    assert summary["not_finite"] == 23
    assert not samples.finite_N.any()
    assert samples.images_NCHW.max() == 0


def test_model_of_another_size_is_refused(digits, sample):
    with pytest.raises(DataError, match="image_size"):
        sample(digits.model_copy(update={"model": digits.model.model_copy(update={"image_size": 16})}))


def test_settings_are_json_without_times_or_paths(digits, sample, tmp_path):
    job = sample(digits)[3]
    assert str(tmp_path) not in (job.out / "sample.json").read_text()
    assert json.loads((job.out / "sample.json").read_text())["clip_denoised"] is False


def test_grid_has_a_column_per_class_and_whole_pixels(digits, sample):
    job = sample(digits)[3]
    with Image.open(job.out / GRID_FILE) as picture:
        assert picture.size == (10 * (56 + 6) + 6, 2 * (56 + 6) + 6 + 22)
    colours = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 3, 8, 8) * 20
    small = class_sheet(colours, torch.arange(12) % 3, ["a", "a class whose name is far too long", "c"])
    assert small.getpixel((6 + 62 + 5, 22 + 6 + 2 * 62 + 5)) == (140, 140, 140)  # row 2, column 1: image 7


def test_processes_take_turns_at_the_same_batches(digits, sample, monkeypatch, make_job, store, target, tmp_path):
    """Two ranks, the second one run whole while the first waits for it: the artefact is that of one process, bit for bit."""
    alone = sample(digits)[3].out
    job = make_job(digits, "sample/mup_s0", tmp_path / "ranks", {"data": store, "train/mup_s0": target})
    drawn: dict[str, list[int]] = {"0": [], "1": []}
    draw, waits = sample_stage._Batches.draw, []

    def noting(self, numbers_B):
        drawn[os.environ["RANK"]] += numbers_B.tolist()
        return draw(self, numbers_B)

    def barrier():
        waits.append(os.environ["RANK"])
        if waits == ["0"]:
            monkeypatch.setenv("RANK", "1")
            assert sample_stage.run(job) == {}
            monkeypatch.setenv("RANK", "0")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sample_stage._Batches, "draw", noting)
    monkeypatch.setattr(sample_stage, "barrier", barrier)
    sample_stage.run(job)
    assert waits == ["0", "1", "1", "0"]
    assert drawn["0"] and drawn["1"] and sorted(drawn["0"] + drawn["1"]) == list(range(23))
    assert {f.name: f.read_bytes() for f in alone.iterdir()} == {f.name: f.read_bytes() for f in job.out.iterdir()}
