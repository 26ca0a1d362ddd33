"""Sampling: the same images for any batching, balanced labels, resume, and runs that left the number range."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mudit.errors import DataError
from mudit.evaluate import sample_stage
from mudit.evaluate.drawer import NetworkDrawer
from mudit.evaluate.samples import FINAL, GRID_FILE, open_sets
from mudit.evaluate.sheets import class_sheet
from mudit.files import sha256_file, start_or_resume
from mudit.jobs.interrupt import EXIT_CODE

from .conftest import drawn, files_of


@pytest.fixture
def sample(make_job, store, target, tmp_path):
    """Runs the stage in a fresh folder; returns (summary, samples, settings, job)."""
    counter = iter(range(100))

    def run(experiment, train=target, root=None):
        job = make_job(experiment, "sample/mup_s0", root or tmp_path / str(next(counter)), {"data": store, "train/mup_s0": train})
        summary = sample_stage.run(job)
        return summary, *drawn(job.out), job

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
    assert files_of(first) == files_of(again)


def test_killed_sampling_goes_on_at_the_first_missing_batch(digits, sample, make_job, store, target, tmp_path, monkeypatch):
    begun = []
    draw = NetworkDrawer.draw

    def killed_at_second(self, numbers_B):
        begun.append(numbers_B.tolist())
        if len(begun) == 2:
            raise KeyboardInterrupt
        return draw(self, numbers_B)

    monkeypatch.setattr(NetworkDrawer, "draw", killed_at_second)
    job = make_job(digits, "sample/mup_s0", tmp_path / "killed", {"data": store, "train/mup_s0": target})
    with pytest.raises(KeyboardInterrupt):
        sample_stage.run(job)
    sample_stage.run(job)
    assert [numbers[0] for numbers in begun] == [0, 10, 10, 20]
    assert torch.equal(drawn(job.out)[0].images_NCHW, sample(digits)[1].images_NCHW)


def test_other_settings_throw_away_unfinished_batches(digits, make_job, store, target, tmp_path, sample):
    job = make_job(changed(digits, seed=1), "sample/mup_s0", tmp_path / "other", {"data": store, "train/mup_s0": target})
    start_or_resume(job.state / FINAL, {"other": "plan"})
    (job.state / FINAL / "images-00000000.safetensors").write_bytes(b"of another plan")
    sample_stage.run(job)
    images = drawn(job.out)[0].images_NCHW
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
    assert str(tmp_path) not in (job.out / FINAL / "sample.json").read_text()
    assert json.loads((job.out / FINAL / "sample.json").read_text())["clip_denoised"] is False


def test_grid_has_a_column_per_class_and_whole_pixels(digits, sample):
    job = sample(digits)[3]
    with Image.open(job.out / FINAL / GRID_FILE) as picture:
        assert picture.size == (10 * (56 + 6) + 6, 3 * (56 + 6) + 6 + 22)  # 23 images: the third row has three
    colours = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 3, 8, 8) * 20
    small = class_sheet(colours, torch.arange(12) % 3, ["a", "a class whose name is far too long", "c"])
    assert small.getpixel((6 + 62 + 5, 22 + 6 + 2 * 62 + 5)) == (140, 140, 140)  # row 2, column 1: image 7


def test_snapshots_are_sets_of_the_same_prompts_and_noise(digits, sample, target, tmp_path):
    train = shutil.copytree(target, tmp_path / "mup_s0")
    folder = train / "snapshots" / "step-0000000100"
    folder.mkdir(parents=True)
    shutil.copy(train / "model.json", folder)
    save_file({name: 1.5 * tensor for name, tensor in load_file(train / "ema.safetensors").items()}, folder / "ema.safetensors")
    (train / "run.json").write_text(json.dumps(json.loads((train / "run.json").read_text()) | {"steps": 250}))
    summary, last, settings, job = sample(digits, train)
    plain = sample(digits)[0]
    snapshot, final = open_sets(job.out)
    assert (snapshot.name, snapshot.step, final.name, final.step) == ("step-0000000100", 100, "final", 250)
    assert torch.equal(snapshot.seeds_N2, final.seeds_N2) and torch.equal(snapshot.labels_N, final.labels_N)
    assert not torch.equal(snapshot.images(0), final.images(0))
    assert snapshot.settings["weights"]["sha256"] == sha256_file(folder / "ema.safetensors") != settings["weights"]["sha256"]
    assert summary["sets"] == 2 and summary["flops"] == 2 * plain["flops"]
    assert torch.equal(last.images_NCHW, sample(digits)[1].images_NCHW)


def test_two_processes_that_are_stopped_and_started_again_make_the_images_of_one(digits, sample, make_job, store, target, tmp_path):
    """Real processes: a signal ends both with exit code 75, and the artefact is that of one process, bit for bit."""
    experiment = changed(digits, images=60, batch_size=5, steps=100)
    alone = sample(experiment)[3].out
    job = make_job(experiment, "sample/mup_s0", tmp_path / "ranks", {"data": store, "train/mup_s0": target})
    first = launch_job(job, tmp_path)
    while not list((job.state / FINAL).glob("images-*.safetensors")):
        assert first.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    for rank in range(2):
        os.kill(int((tmp_path / f"pid-{rank}").read_text()), signal.SIGTERM)
    assert first.wait(timeout=120) != 0
    drawn_before = {path.name for path in (job.state / FINAL).glob("images-*.safetensors")}
    assert 0 < len(drawn_before) < 12 and not files_of(job.out)
    assert f"exitcode : {EXIT_CODE}" in " ".join((tmp_path / "log").read_text().split())
    assert launch_job(job, tmp_path).wait(timeout=120) == 0, (tmp_path / "log").read_text()
    assert files_of(alone) == files_of(job.out)


def launch_job(job, folder):
    """The stage in two processes."""
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    script = (
        "import os, pathlib, pickle, sys\n"
        "pathlib.Path(sys.argv[0]).with_name('pid-' + os.environ['RANK']).write_text(str(os.getpid()))\n"
        "from mudit.jobs.distributed import joined; from mudit.evaluate import sample_stage\n"
        "with joined(): sample_stage.run(pickle.load(open(sys.argv[1], 'rb')))"
    )
    (folder / "run.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--log-dir={os.devnull}", "--nproc-per-node", "2"]
    with (folder / "log").open("wb") as log:
        command += [str(folder / "run.py"), str(folder / "job.pickle")]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
