"""`evaluate` from artefacts to self-contained records, with several sets, shards and processes, and after kills."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mudit.errors import ConfigError
from mudit.evaluate import extractor_stage, sample_stage, samples, stage
from mudit.evaluate.extractors import WEIGHTS_FILE, Extractor
from mudit.evaluate.records import ACCURACY, DISTRIBUTION_METRICS, Judge

from . import rank_of_metrics
from .conftest import files_of

LOSSES = ("validation_loss", "validation_mse", "validation_vb")
METRICS = (*DISTRIBUTION_METRICS, ACCURACY)
EVERY_RECORD = {"metric", "value", "n", "run", "set", "step", "weights", "target", "seeds", "container"}
OF_LOSSES = EVERY_RECORD | {"draws", "seed", "split", "precision"}
OF_IMAGES = EVERY_RECORD | {"images_sha256", "sampling", "protocol", "confidence", "extractor", "reference", "caution", "matched"}
WITH_INTERVAL = OF_IMAGES | {"interval", "interval_method"}
NEIGHBOURS = {"neighbours", "reference_images", "distances"}
FIELDS = {
    **dict.fromkeys(LOSSES, OF_LOSSES),
    "frechet_distance": WITH_INTERVAL | {"second_opinion"},
    "spatial_frechet_distance": WITH_INTERVAL | {"channels"},
    "inception_score": WITH_INTERVAL | {"splits"},
    "kernel_distance": OF_IMAGES | {"std", "std_of"},
    "precision": WITH_INTERVAL | NEIGHBOURS,
    "recall": WITH_INTERVAL | NEIGHBOURS,
    ACCURACY: WITH_INTERVAL,
}


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


@pytest.fixture(scope="module")
def two_sets(digits, make_job, store, extractor, target, tmp_path_factory):
    """Inputs of `evaluate`: samples of a snapshot and of the last weights, three shards each."""
    folder = tmp_path_factory.mktemp("sets")
    train = Path(shutil.copytree(target, folder / "train"))
    snapshot = train / "snapshots" / "step-0000000400"
    snapshot.mkdir(parents=True)
    for name in ("ema.safetensors", "model.json"):
        shutil.copyfile(target / name, snapshot / name)
    inputs = {"data": store, "train/mup_s0": train}
    job = make_job(digits, "sample/mup_s0", folder, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "SHARD_BYTES", 1)
        sample_stage.run(job)
    assert {each.name: each.shards for each in samples.open_sets(job.out)} == {"step-0000000400": 3, "final": 3}
    return {**inputs, "extractor": extractor, "sample/mup_s0": job.out}


def test_every_record_says_how_it_was_made(digits, evaluate, target, tmp_path):
    summary, records, folder = evaluate(digits, target)
    assert {name: set(record) for name, record in records.items()} == FIELDS
    for name, record in records.items():
        assert (record["run"], record["set"], record["value"]) == ("mup_s0", "final", summary[name])
        assert record["seeds"] == {"train": 0, "sample": 0}
        assert (record["weights"]["kind"], record["weights"]["ema_decay"]) == ("ema", 0.99)
        assert len(record["weights"]["sha256"]) == 64
        assert record["container"] is None  # the tests run outside of the image
    for name in METRICS:
        record = records[name]
        assert (record["n"], record["matched"]["n"], record["protocol"]) == (23, 23, "any")
        assert record["sampling"] == {
            "sampler": "ddpm",
            "steps": 4,
            "guidance": 1.0,
            "guide_channels": "all",
            "precision": "fp32",
            "seed": 0,
            "decoder": {"name": "identity"},
            "prompts": {"kind": "labels", "classes": 10},
        }
        assert record["caution"] is None
        reference = record["reference"]
        assert (reference["kind"], reference["split"], reference["images"]) == ("data", "train", "pixels")
        assert (reference["n"], reference["kept"]) == (1500, 1500)
        assert len(record["extractor"]["sha256"]) == len(reference["sha256"]) == 64
        low, high = record.get("interval", (record["value"] - record.get("std", 0), record["value"] + record.get("std", 0)))
        assert low <= record["value"] <= high
    assert str(tmp_path) not in (folder / "metrics.json").read_text()


def test_untrained_target_is_far_from_the_floor(digits, evaluate, target):
    _, records, _ = evaluate(digits, target)
    for name, factor in (("frechet_distance", 5), ("spatial_frechet_distance", 2)):
        assert records[name]["matched"]["value"] > factor * records[name]["matched"]["floor"] > 0
    distance, score, accuracy = records["frechet_distance"], records["inception_score"], records["conditional_accuracy"]
    assert distance["second_opinion"] == pytest.approx(distance["value"], rel=1e-3)
    assert 1 <= score["value"] < score["matched"]["floor"] <= 10
    assert accuracy["matched"]["floor"] > 0.95 > accuracy["value"]
    assert records["validation_loss"]["value"] == pytest.approx(
        records["validation_mse"]["value"] + records["validation_vb"]["value"]
    )


def test_diverged_target_has_no_figures_but_reasons(digits, evaluate, diverged_target):
    summary, records, _ = evaluate(digits, diverged_target)
    assert set(records) == {*LOSSES, *METRICS}
    assert all(record["value"] is None for record in records.values())
    assert records["frechet_distance"]["reason"] == "23 of 23 generated images are not finite"
    assert records["validation_loss"]["reason"] == "the loss is not finite"
    assert summary["frechet_distance"] is None


def test_extractor_without_our_classes_gives_no_accuracy(digits, evaluate, target, extractor, monkeypatch):
    unknowing = {**stage.load_identity(extractor), "knows_classes": False}
    monkeypatch.setattr(stage, "load_identity", lambda folder: unknowing)
    _, records, _ = evaluate(digits, target)
    assert records["conditional_accuracy"]["value"] is None
    assert "does not know the classes" in records["conditional_accuracy"]["reason"]


def test_too_few_images_for_the_subsets(digits, evaluate, target):
    section = digits.evaluate.model_copy(update={"kid_subset_size": 24})
    with pytest.raises(ConfigError, match=r"evaluate\.kid_subset_size 24: the smaller set has 23 images"):
        evaluate(digits.model_copy(update={"evaluate": section}), target)


def test_snapshots_are_scored_beside_the_last_weights(digits, make_job, two_sets, tmp_path, monkeypatch):
    floors, figures = [], Judge._figures
    monkeypatch.setattr(
        Judge, "_figures", lambda self, features, *known: floors.append(features.images) or figures(self, features, *known)
    )
    job = make_job(digits, "evaluate/mup_s0", tmp_path, two_sets)
    summary = stage.run(job)
    result = json.loads((job.out / "metrics.json").read_text())
    final, snapshots = ({record["metric"]: record for record in result[which]} for which in ("records", "snapshots"))
    assert {name: set(record) for name, record in snapshots.items()} == FIELDS
    assert {(record["set"], record["step"]) for record in snapshots.values()} == {("step-0000000400", 400)}
    assert {record["set"] for record in final.values()} == {"final"}
    # The snapshot holds the same weights here, so its images are the same.
    assert {name: record["value"] for name, record in snapshots.items()} == {name: final[name]["value"] for name in FIELDS}
    assert summary["frechet_distance"] == final["frechet_distance"]["value"]
    assert floors == [23, 23, 23], "two sets, and what real images score, once"


def test_killed_evaluation_embeds_nothing_twice(digits, make_job, two_sets, tmp_path, monkeypatch):
    whole = make_job(digits, "evaluate/mup_s0", tmp_path / "whole", two_sets)
    stage.run(whole)
    embedded, features = [], Extractor.features

    def killed_at_third(self, batches):
        embedded.append(sum(map(len, batches := list(batches))))
        if len(embedded) == 3:
            raise KeyboardInterrupt
        return features(self, batches)

    monkeypatch.setattr(Extractor, "features", killed_at_third)
    job = make_job(digits, "evaluate/mup_s0", tmp_path / "killed", two_sets)
    with pytest.raises(KeyboardInterrupt):
        stage.run(job)
    monkeypatch.setattr(stage, "_validation_loss", lambda *arguments: pytest.fail("the losses are there"))
    stage.run(job)
    assert embedded == [10, 10, 3, 3, 10, 10, 3]
    assert files_of(job.out) == files_of(whole.out)


def test_no_more_than_one_shard_is_in_memory(digits, make_job, two_sets, tmp_path, monkeypatch):
    """Images are read a shard at a time, when they are embedded, and by nobody else."""
    read, embedded, images, features = [], [], samples.SampleSet.images, Extractor.features
    monkeypatch.setattr(samples.SampleSet, "images", lambda self, shard: read.append((self.name, shard)) or images(self, shard))
    monkeypatch.setattr(Extractor, "features", lambda self, batches: embedded.append(len(read)) or features(self, batches))
    stage.run(make_job(digits, "evaluate/mup_s0", tmp_path, two_sets))
    assert read == [(name, shard) for name in ("step-0000000400", "final") for shard in range(3)]
    assert embedded == [1, 2, 3, 4, 5, 6]


def test_any_number_of_processes_and_kills_makes_the_same_metrics(
    digits, make_job, store, extractor, two_sets, tmp_path, monkeypatch
):
    """Two real processes, one of which is killed among the real images; then both again, on to the metrics."""
    monkeypatch.setattr(extractor_stage, "MOMENT_IMAGES", rank_of_metrics.MOMENT_IMAGES)
    monkeypatch.setattr(extractor_stage, "_HELD_OUT_IMAGES", rank_of_metrics.HELD_OUT_IMAGES)
    alone, together = ([_untrained(make_job, digits, tmp_path / name, store, extractor)] for name in ("alone", "together"))
    for each, name in ((alone, "alone"), (together, "together")):
        each.append(make_job(digits, "evaluate/mup_s0", tmp_path / name, {**two_sets, "extractor": each[0].out}))
    extractor_stage.run(alone[0]), stage.run(alone[1])
    assert -signal.SIGKILL in _finish(_start(together, tmp_path, "3"))
    pieces = together[0].state / "features"
    kept = {path.name: path.stat().st_mtime_ns for path in pieces.glob("*.safetensors")}
    assert 0 < len(kept) < 4 + 3, "pieces of the reference and of the held-out images"
    processes = _start(together, tmp_path)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for one, two in zip(alone, together, strict=True):
        assert files_of(one.out) == files_of(two.out)


def _untrained(make_job, experiment, root, store, extractor):
    """A job of the stage `extractor` that finds the network trained: that alone takes longest."""
    job = make_job(experiment, "extractor", root, {"data": store})
    job.state.mkdir(parents=True)
    shutil.copyfile(extractor / WEIGHTS_FILE, job.state / WEIGHTS_FILE)
    return job


def _start(jobs, folder, *kill_at):
    """Both ranks, as torchrun starts them."""
    modules = (extractor_stage.__name__, stage.__name__)
    (folder / "jobs.pickle").write_bytes(pickle.dumps(list(zip(modules, jobs, strict=True))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, rank_of_metrics.__file__, str(folder / "jobs.pickle"), *kill_at]
    return [
        subprocess.Popen(command, env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]


def _finish(processes):
    """Exit codes. When one dies the others are killed, as torchrun does."""
    while all(process.poll() is None for process in processes):
        time.sleep(0.05)
    for process in processes:
        process.kill()
    return [process.wait() for process in processes]
