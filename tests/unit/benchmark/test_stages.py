"""Both stages end to end with tiny judges: from prompts to records."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mudit.benchmark import fid_clip, geneval_figures, prompts_stage, stage
from mudit.benchmark.clip import ClipScorer
from mudit.benchmark.prompt_store import PromptStore
from mudit.data.text import CaptionEncoder
from mudit.errors import DataError
from mudit.evaluate.reference import open_extractor
from mudit.evaluate.samples import SampleSet
from mudit.jobs.interrupt import Interrupted
from mudit.models.flops import inference_flops
from mudit.scoped import scoped
from mudit.stages import STAGES, parse

from . import rank_of_benchmarks, world


@pytest.fixture(scope="module")
def finished(experiment, project):
    """The folders of both benchmarks of the run."""
    folders = {}
    for name in experiment.benchmarks:
        job = world.job(experiment, f"benchmark/{world.RUN}_{name}", project)
        stage.run(job)
        folders[name] = job.out
    return folders


def records(folder):
    return {record["metric"]: record for record in json.loads((folder / "metrics.json").read_text())["records"]}


def test_prompts_are_read_by_the_encoders_of_the_data(experiment, project):
    store = PromptStore(project / "prompts/coco")
    encoder = CaptionEncoder(experiment.data.captions)
    assert store.info["text"]["encoders"] == encoder.identities and len(store) == store.images == 24
    numbers = torch.tensor([23, 0, 5])
    prompt = store.of(numbers)
    expected = encoder.encode([store.items[number].prompt for number in numbers])
    torch.testing.assert_close(prompt.condition.pooled, expected.pooled_BP)
    for place, tokens_LE in enumerate(expected.tokens):
        length = len(tokens_LE)
        assert prompt.condition.mask[place].tolist() == [True] * length + [False] * (8 - length)
        torch.testing.assert_close(prompt.condition.tokens[place, :length], tokens_LE.half().float())
    assert not prompt.condition.dropped.any() and prompt.null.dropped.all()
    assert store.texts(2) == [store.items[0].prompt, store.items[1].prompt]


def test_images_of_a_prompt_stand_together(project):
    store = PromptStore(project / "prompts/geneval")
    assert store.images == 12 and store.prompt_of(torch.arange(5)).tolist() == [0, 0, 1, 1, 2]
    assert store.of(torch.tensor([2, 3])).captions_B.tolist() == [1, 1]


def test_fid_and_clip_score_are_those_of_the_images(experiment, finished, project):
    found, store = records(finished["coco"]), PromptStore(project / "prompts/coco")
    samples = SampleSet(finished["coco"] / "final")
    assert len(samples) == 24 and samples.texts() == store.texts(24)
    images = torch.cat(list(samples.batches(24)))
    section = experiment.benchmarks["coco"]
    clip = ClipScorer(Path(section.clip), "here")
    cosines = (clip.see([images]).embeddings_NS * clip.read_texts(store.texts(24))).sum(dim=1)
    score = found["clip_score"]
    assert score["value"] == pytest.approx(100 * cosines.mean().item(), abs=1e-3)
    assert score["interval"][0] < score["value"] < score["interval"][1]
    assert score["n"] == score["ceiling"]["n"] == 24 and score["floor"]["n"] == 24
    features_ND = open_extractor(project / "extractor").features([images]).features_ND.double().numpy()
    gaussian = store.real_images().gaussian
    shift = ((features_ND.mean(axis=0) - gaussian.mean_D) ** 2).sum()
    distance = found["frechet_distance"]
    assert distance["value"] >= shift and distance["value"] == pytest.approx(distance["second_opinion"], rel=1e-3)
    assert distance["reference"]["n"] == 24 and distance["reference"]["left_out"] == 0
    assert np.isfinite(distance["interval"]).all()


def test_geneval_scores_are_the_shares_of_its_verdicts(finished):
    found = records(finished["geneval"])
    verdicts = json.loads((finished["geneval"] / "verdicts.json").read_text())
    assert [each["image"] for each in verdicts] == list(range(12)) and {each["prompt"] for each in verdicts} == {
        f"0000{k}" for k in range(6)
    }
    shares = {}
    for each in verdicts:
        shares.setdefault(f"geneval/{each['task']}", []).append(each["right"])
        assert each["right"] or each["reason"]
    assert {name: record["value"] for name, record in found.items() if name != "geneval"} == {
        name: sum(rights) / 2 for name, rights in shares.items()
    }
    assert found["geneval"]["value"] == pytest.approx(sum(map(sum, shares.values())) / 12)
    assert any(each["right"] for each in verdicts) and not all(each["right"] for each in verdicts), "or this test shows nothing"


def test_every_record_says_how_it_was_made(finished):
    for name, judges in (("coco", {"frechet_distance": "extractor", "clip_score": "clip"}), ("geneval", {"geneval": "judge"})):
        for record in records(finished[name]).values():
            told = {"run", "step", "benchmark", "protocol", "weights", "target", "seeds", "container", "sampling", "confidence"}
            assert told | {"images_sha256", "n", "value", "interval", "interval_method"} <= record.keys()
            assert record["run"] == world.RUN and record["benchmark"] == name
            assert {"sampler", "steps", "guidance", "seed", "prompts"} <= record["sampling"].keys()
            assert len(record["sampling"]["prompts"]["items_sha256"]) == 64
            assert (record["weights"]["kind"], record["weights"]["ema_decay"]) == ("ema", 0.9), (
                "the average, unless asked otherwise"
            )
        for metric, judge in judges.items():
            assert "sha256" in json.dumps(records(finished[name])[metric][judge])


def test_snapshots_are_drawn_and_scored_like_the_last_weights(experiment, project, finished, tmp_path, monkeypatch):
    """Networks and references are loaded once; the figures of the last weights are those of a run without snapshots."""
    train = tmp_path / "train"
    world.write_target(train, experiment)
    world.write_target(train / "snapshots/step-0000000004", experiment, scale=0.5)
    opened = []
    for module, name in ((fid_clip, "ClipScorer"), (geneval_figures, "Mask2Former"), (fid_clip, "open_extractor")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, real=real, name=name: (opened.append(name), real(*args))[1])
    for name in experiment.benchmarks:
        job = world.job(experiment, f"benchmark/{world.RUN}_{name}", project, tmp_path / name)
        job.inputs[f"train/{world.RUN}"] = train
        summary, alone = stage.run(job), json.loads((finished[name] / "metrics.json").read_text())
        found = json.loads((job.out / "metrics.json").read_text())
        assert alone["snapshots"] == [] and found["records"] == alone["records"]
        early = {record["metric"]: record for record in found["snapshots"]}
        assert early.keys() == records(job.out).keys()
        assert all((record["set"], record["step"]) == ("step-0000000004", 4) for record in early.values())
        assert {record["images_sha256"] for record in early.values()} == {SampleSet(job.out / "step-0000000004").images_sha256}
        assert {record["images_sha256"] for record in found["records"]}.isdisjoint(
            record["images_sha256"] for record in found["snapshots"]
        )
        assert (summary["sets"], summary["flops"]) == (2, 2 * flops_of_one(experiment, job, summary))
    assert sorted(opened) == ["ClipScorer", "Mask2Former", "open_extractor"]
    assert len(json.loads((tmp_path / "geneval/verdicts-step-0000000004.json").read_text())) == 12


def flops_of_one(experiment, job, summary):
    """Of one set of images."""
    return inference_flops(experiment.model, world.WIDTH, summary["images"] * experiment.sample.steps * 2)


class Stopping:
    """Stands in for a crew whose process is asked to stop after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def patch(self, monkeypatch, *modules) -> None:
        from mudit.jobs.crew import Crew

        def crew(interrupt):
            real = Crew(interrupt)
            stopping = self

            class Asked(Crew):
                @property
                def asked(self):
                    stopping.looks -= 1
                    return stopping.looks < 0

            real.__class__ = Asked
            return real

        for module in modules:
            monkeypatch.setattr(module, "Crew", crew)


@pytest.mark.parametrize("name", ["coco", "geneval"])
def test_a_stopped_benchmark_goes_on_and_ends_the_same(experiment, project, finished, name, tmp_path, monkeypatch):
    """Stopped before its last batch of images, then before its last piece to judge: nothing is drawn or judged twice."""
    monkeypatch.setattr(stage, "PIECE_IMAGES", 5)
    key = f"benchmark/{world.RUN}_{name}"
    batches, pieces = {"coco": (3, 5), "geneval": (2, 3)}[name]
    for attempt, looks in enumerate((batches - 1, 1 + pieces - 1)):
        with monkeypatch.context() as patch:
            Stopping(looks).patch(patch, stage)
            job = replace(world.job(experiment, key, project, tmp_path / f"out-{attempt}"), state=tmp_path / "state")
            with pytest.raises(Interrupted):
                stage.run(job)
        assert not (job.out / "metrics.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (job.state / "pieces").glob("*.safetensors")}
    assert len(kept) == pieces - 1
    job = replace(world.job(experiment, key, project, tmp_path / "last"), state=tmp_path / "state")
    judged = []
    monkeypatch.setattr(stage, "PIECE_IMAGES", 5)
    real = stage.Pieces.make
    monkeypatch.setattr(
        stage.Pieces,
        "make",
        lambda self, work, crew, what: (
            judged.extend(p.name for p in work if not self.path(p.name).is_file()),
            real(self, work, crew, what),
        )[1],
    )
    stage.run(job)
    assert len(judged) == 1
    for metric, record in records(job.out).items():
        other = records(finished[name])[metric]
        assert record["value"] == pytest.approx(other["value"], rel=1e-5), "pieces of another size round differently"


def test_too_many_missing_references_are_refused_and_few_are_counted(experiment, project, coco, tmp_path, monkeypatch):
    _, images = coco
    items = PromptStore(project / "prompts/coco").items
    for lost, share in ((2, 0.1), (3, 0.1), (23, 0.97)):
        folder = tmp_path / f"images-{lost}"
        folder.mkdir()
        for item in items[lost:]:
            (folder / item.image).write_bytes((images / item.image).read_bytes())
        (folder / items[0].image).write_bytes(b"junk")  # unreadable instead of missing
        section = experiment.benchmarks["coco"]
        changed = section.model_copy(
            update={"prompts": section.prompts.model_copy(update={"images": str(folder)}), "max_corrupt_share": share}
        )
        other = experiment.model_copy(update={"benchmarks": {"coco": changed}})
        root = tmp_path / f"project-{lost}"
        root.mkdir()
        (root / "extractor").symlink_to(project / "extractor")
        job = world.job(other, "prompts/coco", root)
        if lost == 2:
            assert prompts_stage.run(job)["references"] == 22
            reference = PromptStore(job.out).info["reference"]
            assert reference["left_out"] == {"count": 2, "ids": [item.id for item in items[:2]]}
        elif lost == 23:
            with pytest.raises(DataError, match=r"1 of 24 images can be read; a distance to them needs 2 or more"):
                prompts_stage.run(job)
        else:
            with pytest.raises(
                DataError, match=r"benchmarks\.coco\.prompts\.images .*: 3 of 24 images are missing or unreadable"
            ) as caught:
                prompts_stage.run(job)
            assert "\n" not in str(caught.value) and "max_corrupt_share from 0.1" in str(caught.value)


def test_references_none_of_which_can_be_read_say_why(experiment, project, tmp_path):
    empty = tmp_path / "images"
    empty.mkdir()
    section = experiment.benchmarks["coco"]
    changed = section.model_copy(update={"prompts": section.prompts.model_copy(update={"images": str(empty)})})
    (tmp_path / "extractor").symlink_to(project / "extractor")
    job = world.job(experiment.model_copy(update={"benchmarks": {"coco": changed}}), "prompts/coco", tmp_path)
    with pytest.raises(DataError, match=r"images .*\.jpg and 23 more are missing or unreadable \(.*No such file") as caught:
        prompts_stage.run(job)
    assert "\n" not in str(caught.value)


def test_prompts_of_other_text_encoders_are_refused(experiment, project, tmp_path):
    copy = tmp_path / "coco"
    copy.mkdir()
    for path in (project / "prompts/coco").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    info = json.loads((copy / "prompts.json").read_text())
    info["text"]["encoders"]["tokens"]["sha256"] = "0" * 64
    (copy / "prompts.json").write_text(json.dumps(info))
    job = world.job(experiment, f"benchmark/{world.RUN}_coco", project, tmp_path / "out")
    job.inputs["prompts/coco"] = copy
    with pytest.raises(DataError, match=r"benchmarks\.coco: its prompts were read by other text encoders"):
        stage.run(job)
    (copy / "items.json").write_text("[]")
    with pytest.raises(DataError, match=r"not the prompts that prompts\.json describes"):
        stage.run(job)


def test_a_run_that_diverged_has_records_without_values(experiment, project, tmp_path):
    world.write_target(tmp_path / "train", experiment, scale=float("nan"))
    for name in experiment.benchmarks:
        job = world.job(experiment, f"benchmark/{world.RUN}_{name}", project, tmp_path / name)
        job.inputs[f"train/{world.RUN}"] = tmp_path / "train"
        stage.run(job)
        assert all(record["value"] is None and "not finite" in record["reason"] for record in records(job.out).values())


def test_the_stages_depend_on_what_they_read_and_nothing_else(experiment):
    key = f"{world.RUN}_geneval"
    benchmark = STAGES["benchmark"]
    assert key in benchmark.all_keys(experiment) and benchmark.inputs(experiment, key) == [
        "data",
        "prompts/geneval",
        "train/mup_s0",
    ]
    assert "extractor" in benchmark.inputs(experiment, f"{world.RUN}_coco")
    parameters = benchmark.parameters(experiment, key)
    assert "images" not in parameters["sample"] and list(parameters["benchmarks"]) == ["geneval"] and "evaluate" not in parameters
    fields = STAGES["prompts"].parameters(experiment, "coco")
    assert set(fields["data"]) == {"captions", "image_size"} and set(fields["evaluate"]) == {"extractor"}
    assert scoped(experiment, parse(world.NAME, f"benchmark/{key}")).sample.guidance == 2.0


@pytest.mark.slow
def test_two_processes_make_the_same_artefacts(experiment, project, tmp_path):
    """Real processes, which share batches and pieces of both benchmarks; files are those of one process, byte for byte."""
    roots, jobs = {"alone": tmp_path / "alone", "together": tmp_path / "together"}, {}
    for who, root in roots.items():
        root.mkdir()
        jobs[who] = [world.job(experiment, f"benchmark/{world.RUN}_{name}", project, root / name) for name in experiment.benchmarks]
    (tmp_path / "jobs.pickle").write_bytes(pickle.dumps(jobs["together"]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, rank_of_benchmarks.__file__, str(tmp_path / "jobs.pickle")]
    processes = [
        subprocess.Popen(command, env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    for job in jobs["alone"]:
        rank_of_benchmarks.run(job)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for one, two in zip(jobs["alone"], jobs["together"], strict=True):
        files = {path.relative_to(one.out): path.read_bytes() for path in one.out.rglob("*") if path.is_file()}
        assert files == {path.relative_to(two.out): path.read_bytes() for path in two.out.rglob("*") if path.is_file()}
        assert len(files) >= 5
