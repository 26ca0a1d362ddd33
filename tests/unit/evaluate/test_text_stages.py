"""Sampling and evaluation of the text families, from artefacts to records."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from PIL import Image

from mudit.data.reader import LatentStore
from mudit.errors import ConfigError
from mudit.evaluate import sample_stage, stage
from mudit.evaluate.drawer import NetworkDrawer
from mudit.evaluate.records import DISTRIBUTION_METRICS, Judge
from mudit.evaluate.reference import Real, load_identity
from mudit.evaluate.samples import CAPTIONS_FILE, FINAL, GRID_FILE
from mudit.evaluate.text_records import TEXT_METRICS

from . import text_world
from .conftest import drawn, files_of, write_target
from .text_world import HELD_OUT

FAMILIES = tuple(text_world.FAMILIES)
PER_CLASS = ("kernel_distance/noto", "kernel_distance/fluent-3d")


def changed(experiment, **changes):
    return experiment.model_copy(update={"sample": experiment.sample.model_copy(update=changes)})


@pytest.fixture(scope="session")
def targets(captioned, tmp_path_factory):
    """family -> a train artefact; MMDiT's says that it was trained with REPA."""
    folder = tmp_path_factory.mktemp("text-train")
    return {
        family: write_target(folder / family, captioned[family], alignment_weight=0.5 if family == "mmdit" else 0.0)
        for family in FAMILIES
    }


@pytest.fixture(scope="session")
def sample(captioned, make_job, text_store, targets, tmp_path_factory):
    """Runs the stage in a fresh folder; returns (summary, samples, settings, folder)."""

    def run(family, experiment=None, train=None):
        inputs = {"data": text_store, "train/mup_s0": train or targets[family]}
        job = make_job(experiment or captioned[family], "sample/mup_s0", tmp_path_factory.mktemp("text-sample"), inputs)
        summary = sample_stage.run(job)
        return summary, *drawn(job.out), job.out

    return run


@pytest.fixture(scope="session")
def sampled(sample):
    """family -> what `sample` made with the family's own settings."""
    return {family: sample(family) for family in FAMILIES}


@pytest.fixture(scope="session")
def evaluate(captioned, make_job, text_store, text_extractor, scorer, targets, sampled, tmp_path_factory):
    """Evaluates a family's samples; returns (summary, metric -> record, folder)."""

    def run(family, experiment=None, samples=None, train=None):
        inputs = {"data": text_store, "extractor": text_extractor, "scorer": scorer}
        inputs |= {"train/mup_s0": train or targets[family], "sample/mup_s0": samples or sampled[family][3]}
        job = make_job(experiment or captioned[family], "evaluate/mup_s0", tmp_path_factory.mktemp("text-evaluate"), inputs)
        summary = stage.run(job)
        result = json.loads((job.out / "metrics.json").read_text(), parse_constant=pytest.fail)
        return summary, {record["metric"]: record for record in result["records"]}, job.out

    return run


@pytest.fixture(scope="session")
def pixart(evaluate):
    """What `evaluate` made of PixArt's samples."""
    return evaluate("pixart")


@pytest.mark.parametrize("family", FAMILIES)
def test_images_go_round_the_held_out_captions(sampled, text_store, family):
    summary, samples, settings, folder = sampled[family]
    split = LatentStore.open(text_store).split("validation")
    assert (summary["images"], summary["not_finite"]) == (46, 0)
    assert summary["flops"] > 0
    assert samples.captions_N.tolist() == [*range(HELD_OUT), *range(6)]
    assert torch.equal(samples.labels_N, split.labels(samples.captions_N))
    assert torch.equal(samples.subjects_N, split.subjects(samples.captions_N))
    assert samples.seeds_N2.tolist() == [[0, number] for number in range(46)]
    assert json.loads((folder / FINAL / CAPTIONS_FILE).read_text()) == split.captions(samples.captions_N)
    prompts = settings["prompts"]
    assert (prompts["kind"], prompts["split"], prompts["captions"]) == ("captions", "validation", HELD_OUT)
    texts = json.dumps(split.captions(torch.arange(HELD_OUT)))
    assert prompts["sha256"] == hashlib.sha256(texts.encode()).hexdigest()
    assert prompts["text_encoders"]["tokens"] == {"name": "figures"}
    assert samples.images_NCHW.float().std() > 10
    assert not torch.equal(samples.images_NCHW[0], samples.images_NCHW[HELD_OUT])  # the same caption, other noise


@pytest.mark.parametrize("family", FAMILIES)
def test_images_do_not_depend_on_batch_size(captioned, sample, sampled, family):
    """Matrix products of another batch size round differently, so a pixel may move to the next of 256 levels, rarely."""
    parts = sample(family, changed(captioned[family], batch_size=17, images=30))[1]
    whole = sampled[family][1].images_NCHW[:30]
    steps_apart = (whole.int() - parts.images_NCHW.int()).abs()
    assert steps_apart.max() <= 1
    assert (steps_apart > 0).float().mean() < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_and_guidance_matter(captioned, sample, sampled, family):
    plain = sample(family, changed(captioned[family], guidance=1.0, images=6))[1].images_NCHW
    assert not torch.equal(plain, sampled[family][1].images_NCHW[:6])


def test_picture_shows_captions(sampled):
    with Image.open(sampled["mmdit"][3] / FINAL / GRID_FILE) as picture:
        assert picture.size == (6 + 6 * 102, 4 * (102 + 39 + 6) + 6)


def test_uvit_samples_with_dpm_solver(captioned, sample):
    summary = sample("uvit", changed(captioned["uvit"], sampler="dpm-solver++", images=4))[0]
    assert (summary["images"], summary["not_finite"]) == (4, 0)


def test_extractor_keeps_the_labels_of_its_references(text_extractor, text_store):
    real, store = Real.load(text_extractor), LatentStore.open(text_store)
    assert load_identity(text_extractor)["knows_classes"] is False
    assert torch.equal(real.kept_labels_N, store.split("train").labels(torch.arange(80)))
    assert [len(real.held_out_of_class(label)) for label in (0, 1)] == [20, 20]


def test_every_record_says_how_it_was_made(pixart, text_store):
    summary, records, folder = pixart
    losses = {"validation_loss", "validation_mse", "validation_vb"}
    assert set(records) == {*losses, *DISTRIBUTION_METRICS, *PER_CLASS, *TEXT_METRICS}
    for name, record in records.items():
        assert (record["run"], record["value"]) == ("mup_s0", summary[name])
        if name not in losses:
            assert record["sampling"]["prompts"]["captions"] == HELD_OUT
            assert record["caution"] is None
    for name in TEXT_METRICS:
        assert len(records[name]["scorer"]["sha256"]) == 64
        assert records[name]["held_out_by"] == "subject"
        assert records[name]["ceiling"]["n"] == HELD_OUT
        assert records[name]["n"] == 46
    for name in (*DISTRIBUTION_METRICS, *PER_CLASS):
        assert records[name]["extractor"]["name"] == "efficientnet-lite0"
    assert str(text_store.parent) not in (folder / "metrics.json").read_text()


def test_noise_is_far_from_the_ceiling_and_from_the_real_images(pixart):
    _, records, _ = pixart
    assert records["clip_like_score"]["interval"][1] < records["clip_like_score"]["ceiling"]["interval"][0]
    assert records["subject_accuracy"]["interval"][1] < records["subject_accuracy"]["ceiling"]["value"]
    for name in ("kernel_distance", *PER_CLASS):
        assert records[name]["matched"]["value"] > 2 * records[name]["matched"]["floor"]


def test_run_with_repa_is_marked(evaluate):
    _, records, _ = evaluate("mmdit")
    for name in (*DISTRIBUTION_METRICS, *PER_CLASS, *TEXT_METRICS):
        assert "trained with REPA, weight 0.5, on local features of efficientnet-lite0" in records[name]["caution"]


def test_diverged_target_has_no_figures_but_reasons(captioned, evaluate, sample, tmp_path):
    train = write_target(tmp_path / "diverged", captioned["pixart"], scale=float("nan"))
    folder = sample("pixart", train=train)[3]
    summary, records, _ = evaluate("pixart", samples=folder, train=train)
    assert all(value is None for name, value in summary.items() if name in records)
    assert records["kernel_distance/noto"]["reason"] == "46 of 46 generated images are not finite"
    assert records["clip_like_score"]["reason"] == "46 of 46 generated images are not finite"


def test_metrics_are_deterministic(pixart, evaluate):
    assert (evaluate("pixart")[2] / "metrics.json").read_bytes() == (pixart[2] / "metrics.json").read_bytes()


def test_too_few_images_of_a_class(captioned, evaluate):
    section = captioned["pixart"].evaluate.model_copy(update={"kid_subset_size": 21})
    experiment = captioned["pixart"].model_copy(update={"evaluate": section})
    with pytest.raises(ConfigError, match=r"kid_subset_size 21: class noto has 2\d generated, 20 held-out and 40 training images"):
        evaluate("pixart", experiment)


def test_class_that_no_image_shows_has_no_figure(captioned, text_extractor):
    real = Real.load(text_extractor)
    judge, labels_N = Judge(real, captioned["pixart"].evaluate), torch.zeros(20, dtype=torch.int64)
    found = judge.class_records(real.held_out.features_ND[:20], labels_N, ["noto", "fluent-3d"])
    assert found[0]["value"] is not None and found[0]["matched"]["n"] == 20
    assert (found[1]["metric"], found[1]["value"]) == ("kernel_distance/fluent-3d", None)
    assert "without generated" in found[1]["reason"]


def test_killed_sampling_goes_on_at_the_first_missing_batch(
    captioned, make_job, text_store, targets, sampled, tmp_path, monkeypatch
):
    begun, draw = [], NetworkDrawer.draw

    def killed_at_second(self, numbers_B):
        begun.append(int(numbers_B[0]))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return draw(self, numbers_B)

    monkeypatch.setattr(NetworkDrawer, "draw", killed_at_second)
    inputs = {"data": text_store, "train/mup_s0": targets["mmdit"]}
    job = make_job(captioned["mmdit"], "sample/mup_s0", tmp_path, inputs)
    with pytest.raises(KeyboardInterrupt):
        sample_stage.run(job)
    sample_stage.run(job)
    assert begun == [0, 20, 20, 40]
    assert files_of(job.out) == files_of(sampled["mmdit"][3])


def test_without_a_scorer_there_are_no_text_metrics(captioned, make_job, text_store, text_extractor, targets, sampled, tmp_path):
    inputs = {"data": text_store, "extractor": text_extractor, "train/mup_s0": targets["uvit"], "sample/mup_s0": sampled["uvit"][3]}
    experiment = captioned["uvit"].model_copy(update={"scorer": None})
    summary = stage.run(make_job(experiment, "evaluate/mup_s0", tmp_path, inputs))
    assert not set(TEXT_METRICS) & set(summary)
    assert set(PER_CLASS) < set(summary)
