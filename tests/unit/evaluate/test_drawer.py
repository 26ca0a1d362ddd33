"""What draws one batch: precision, compilation, and what is made once for all steps."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from mudit.config.cluster import SampleWorkers
from mudit.data.reader import LatentStore
from mudit.evaluate import drawer, sample_stage
from mudit.evaluate.drawer import NetworkDrawer
from mudit.evaluate.prompts import make_prompts
from mudit.models.pixart import PixArt
from mudit.train.weights import load_model

from .conftest import drawn, write_target


def changed(experiment, **changes):
    return experiment.model_copy(update={"sample": experiment.sample.model_copy(update=changes)})


def drawer_of(experiment, store, target) -> NetworkDrawer:
    store = LatentStore.open(store)
    prompts = make_prompts(store, experiment.model, None)
    network = functools.partial(load_model, target, experiment)
    return NetworkDrawer(network, prompts, store.encoder(), experiment.sample, experiment.model, experiment.diffusion)


def test_bf16_is_autocast_and_says_how_far_it_is_from_fp32(digits, make_job, store, target, tmp_path, monkeypatch):
    images, found = {}, {}
    for precision in ("fp32", "bf16"):
        experiment = changed(digits, precision=precision)
        job = make_job(experiment, "sample/mup_s0", tmp_path / precision, {"data": store, "train/mup_s0": target})
        sample_stage.run(job)
        samples, found[precision] = drawn(job.out)
        images[precision] = samples.images_NCHW
    assert "precision_difference" not in found["fp32"]
    difference = found["bf16"]["precision_difference"]
    assert (difference["against"], difference["images"]) == ("fp32", 16)
    apart = (images["bf16"][:16].int() - images["fp32"][:16].int()).abs().float()
    assert apart.max() == difference["pixels"]["max"] > 0
    assert apart.mean().item() == pytest.approx(difference["pixels"]["mean"])
    assert 0 < difference["latents"]["mean"] < 0.05 * difference["latents"]["std"]
    monkeypatch.setattr(drawer, "_round_linear", lambda network: None)  # autocast alone, which rounds in every step
    alone = drawer_of(changed(digits, precision="bf16"), store, target).draw(torch.arange(10))
    assert torch.equal(alone.images_BCHW, images["bf16"][:10])


def test_a_run_that_left_the_number_range_has_no_difference(digits, store, diverged_target):
    measured = drawer_of(changed(digits, precision="bf16"), store, diverged_target).measured(23)["precision_difference"]
    assert measured["images"] == 0 and measured["latents"] == {"max": None, "mean": None, "std": None}


def test_what_is_measured_is_drawn_and_decoded_in_the_batches_of_the_set(digits, store, target, monkeypatch):
    drawn_at_once, decoded_at_once = [], []
    latents, decoded = NetworkDrawer._latents, NetworkDrawer._decoded
    monkeypatch.setattr(
        NetworkDrawer,
        "_latents",
        lambda self, network, numbers, prompt: drawn_at_once.append(len(numbers)) or latents(self, network, numbers, prompt),
    )
    monkeypatch.setattr(
        NetworkDrawer, "_decoded", lambda self, each, finite: decoded_at_once.append(len(each)) or decoded(self, each, finite)
    )
    found = {}
    for batch_size in (16, 5):
        of_batch = drawer_of(changed(digits, precision="bf16", batch_size=batch_size), store, target)
        found[batch_size] = of_batch.measured(23)["precision_difference"]
    assert drawn_at_once == decoded_at_once == [16, 16] + 2 * [5, 5, 5, 1]
    assert found[16]["images"] == found[5]["images"] == 16
    assert found[5]["latents"]["mean"] == pytest.approx(found[16]["latents"]["mean"], rel=0.05)


def test_a_set_of_few_images_is_compared_whole(digits, store, target):
    """A benchmark's prompts end with its images; there may be fewer than are compared otherwise."""
    few = drawer_of(changed(digits, precision="bf16"), store, target).measured(3)["precision_difference"]
    assert few["images"] == 3 and few["pixels"]["max"] is not None


def test_what_a_caption_alone_decides_is_made_once(captioned, text_store, tmp_path, monkeypatch):
    experiment = captioned["pixart"]
    target = write_target(tmp_path / "pixart", experiment)
    made = []
    prepare = PixArt.prepare
    monkeypatch.setattr(PixArt, "prepare", lambda self, condition: made.append(1) or prepare(self, condition))
    drawn_once = drawer_of(experiment, text_store, target).draw(torch.arange(5)).images_BCHW
    assert len(made) == 1 < experiment.sample.steps
    monkeypatch.setattr(drawer._Network, "_prepare", lambda self, condition: condition)
    assert torch.equal(drawer_of(experiment, text_store, target).draw(torch.arange(5)).images_BCHW, drawn_once)


def test_blocks_are_compiled_if_the_execution_says_so(digits, make_job, store, target, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    for compile_blocks in (False, True):
        workers = SampleWorkers(nodes=1, per_node=1, compile=compile_blocks)
        job = make_job(digits, "sample/mup_s0", tmp_path / str(compile_blocks), {"data": store, "train/mup_s0": target})
        sample_stage.run(dataclasses.replace(job, workers=workers))
        assert len(compiled) == (digits.model.depth if compile_blocks else 0)
