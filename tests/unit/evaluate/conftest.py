"""What sampling and evaluation read: a digits store and a captioned one, extractor, scorer, and targets with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import mudit.data.stage
import mudit.evaluate.extractor_stage
import mudit.evaluate.scorer_stage
from mudit.config.load import load
from mudit.evaluate.samples import open_sets
from mudit.models.families import build
from mudit.parametrization.apply import parametrize
from mudit.parametrization.table import table_for
from mudit.scoped import scoped
from mudit.stages import Artefact, Job, parse
from mudit.train.weights import save_weights

from . import text_world

WIDTH = 16


@pytest.fixture(scope="session")
def digits():
    """The desk experiment with a tiny sample."""
    experiment = load(Path(__file__).parents[3] / "config.yaml").experiments["dit-digits"]
    sample = experiment.sample.model_copy(update={"images": 23, "batch_size": 10, "steps": 4})
    evaluate = experiment.evaluate.model_copy(update={"kid_subsets": 5, "kid_subset_size": 20})
    return experiment.model_copy(update={"sample": sample, "evaluate": evaluate})


@pytest.fixture(scope="session")
def make_job():
    """(experiment, artefact's name, folder with `results` and `state`, folders of inputs) -> Job with the scoped configuration."""

    def make(experiment, name: str, root: Path, inputs: dict[str, Path]) -> Job:
        artefact: Artefact = parse("dit-digits", name)
        out = root / "results" / name
        out.mkdir(parents=True)
        return Job("dit-digits", scoped(experiment, artefact), artefact.key, inputs, out, root / "state" / name)

    return make


@pytest.fixture(scope="session")
def store(digits, make_job, tmp_path_factory):
    job = make_job(digits, "data", tmp_path_factory.mktemp("data"), {})
    mudit.data.stage.run(job)
    return job.out


@pytest.fixture(scope="session")
def extractor(digits, make_job, store, tmp_path_factory):
    job = make_job(digits, "extractor", tmp_path_factory.mktemp("extractor"), {"data": store})
    mudit.evaluate.extractor_stage.run(job)
    return job.out


class Drawn(NamedTuple):
    """The last set of an artefact, whole."""

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor
    seeds_N2: torch.Tensor
    finite_N: torch.Tensor
    captions_N: torch.Tensor | None
    subjects_N: torch.Tensor | None


def drawn(folder: Path) -> tuple[Drawn, dict[str, Any]]:
    """Images and settings of what `sample` wrote."""
    found = open_sets(folder)[-1]
    images_NCHW = torch.cat(list(found.batches(7)))
    columns = (found.labels_N, found.seeds_N2, found.finite_N, found.captions_N, found.subjects_N)
    return Drawn(images_NCHW, *columns), found.settings


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents by name, of folders within as well."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_target(folder: Path, experiment, scale: float = 1.0, alignment_weight: float = 0.0) -> Path:
    """A train artefact with weights as initialised, times `scale`, and none of them zero: each part of the model has its say."""
    folder.mkdir(parents=True)
    table = table_for(experiment.model, WIDTH, "mup")
    model = parametrize(build(experiment.model, WIDTH), table, seed=0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator)).mul_(scale)
    family = experiment.model.family
    save_weights(folder, model, model, {"family": family, "scheme": "mup", "width": WIDTH, "parametrization": table.digest})
    outcome = {"arm": "mup", "seed": 0, "ema_decay": 0.99, "alignment_weight": alignment_weight}
    (folder / "run.json").write_text(json.dumps(outcome))
    return folder


@pytest.fixture(scope="session")
def target(digits, tmp_path_factory):
    return write_target(tmp_path_factory.mktemp("train") / "mup_s0", digits)


@pytest.fixture(scope="session")
def diverged_target(digits, tmp_path_factory):
    return write_target(tmp_path_factory.mktemp("diverged") / "mup_s0", digits, scale=float("nan"))


@pytest.fixture(scope="session")
def captioned(digits):
    """family -> an experiment on the captioned world."""
    return {family: text_world.experiment(digits, family) for family in text_world.FAMILIES}


@pytest.fixture(scope="session")
def text_store(tmp_path_factory):
    return text_world.write_store(tmp_path_factory.mktemp("text")).folder


@pytest.fixture(scope="session")
def text_extractor(captioned, make_job, text_store, tmp_path_factory):
    job = make_job(captioned["mmdit"], "extractor", tmp_path_factory.mktemp("text-extractor"), {"data": text_store})
    mudit.evaluate.extractor_stage.run(job)
    return job.out


@pytest.fixture(scope="session")
def scorer(captioned, make_job, text_store, tmp_path_factory):
    job = make_job(captioned["mmdit"], "scorer", tmp_path_factory.mktemp("scorer"), {"data": text_store})
    mudit.evaluate.scorer_stage.run(job)
    return job.out
